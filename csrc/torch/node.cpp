#include "node.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "library.h"

namespace l1bn {

Answer (*ask)(const Question&) = nullptr;

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What the kernel left.
struct Made {
  at::Tensor y, statistics, bits;
  Layout layout;
};

l1bn_problem problem_of(const Call& call, const Layout& layout) {
  const at::Tensor& parameter = call.weight.defined() ? call.weight : call.bias;
  return {layout.outer,
          layout.channels,
          layout.inner,
          code_of(call.x.scalar_type()),
          parameter.defined() ? code_of(parameter.scalar_type()) : 0,
          call.activation,
          at::get_num_threads(),
          call.eps,
          call.parameter};
}

void* scale_of(const at::Tensor& statistics) {
  return static_cast<char*>(statistics.data_ptr()) +
         2 * statistics.size(1) * statistics.element_size();
}

bool same_dtype(const at::Tensor& first, const at::Tensor& second) {
  return !first.defined() || !second.defined() || first.scalar_type() == second.scalar_type();
}

// Layout of a call that the kernels take as it is.
std::optional<Layout> served(const Call& call) {
  const at::Tensor& x = call.x;
  if (!is_ordinary(x) || code_of(x.scalar_type()) < 0 || !(call.eps > 0)) return std::nullopt;
  const auto layout = layout_of(x);
  if (!layout || x.numel() == x.size(1)) return std::nullopt;
  const int64_t channels = x.size(1);
  for (const at::Tensor* v : {&call.weight, &call.bias, &call.running_mean, &call.running_var})
    if (!is_vector(*v, channels)) return std::nullopt;
  if (call.running_mean.defined() != call.running_var.defined() ||
      !same_dtype(call.running_mean, call.running_var) || !same_dtype(call.weight, call.bias))
    return std::nullopt;
  if (call.residual.defined() &&
      !(is_ordinary(call.residual) && lies_like(call.residual, x, *layout)))
    return std::nullopt;
  return layout;
}

// Runs the kernel; nothing where it refuses.
std::optional<Made> made(const Call& call, const Layout& layout, bool want_bits) {
  const at::Tensor& x = call.x;
  Made found{memory_like(x), {}, {}, layout};
  const auto wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  found.statistics = at::empty({3, layout.channels}, wide);
  if (want_bits)
    found.bits = memory_run(library().bits_bytes(layout.outer, layout.channels, layout.inner));
  const bool moves = call.running_mean.defined();
  const l1bn_forward_args arguments{problem_of(call, layout),
                                    x.data_ptr(),
                                    address(call.residual),
                                    address(call.weight),
                                    address(call.bias),
                                    found.y.data_ptr(),
                                    found.statistics.data_ptr(),
                                    scale_of(found.statistics),
                                    address(found.bits),
                                    library().recoverable[code_of(x.scalar_type())],
                                    address(call.running_mean),
                                    address(call.running_var),
                                    moves ? code_of(call.running_mean.scalar_type()) : 0,
                                    call.momentum};
  const int64_t bad = library().forward(&arguments);
  if (bad <= L1BN_ERROR) return std::nullopt;
  if (bad) found.bits = at::Tensor();  // x_hat cannot be recovered: x is kept
  return found;
}

at::Tensor cast(at::Tensor gradient, const at::Tensor& to) {
  return gradient.scalar_type() == to.scalar_type() ? gradient : gradient.to(to.scalar_type());
}

// The kernels' backward, or nothing where they cannot do it.
std::optional<Answer> by_kernels(const Question& q) {
  const auto& [x, weight, bias, statistics, y, residual, bits, scale] = q.saved;
  const at::Tensor& grad = q.grads[0];
  const at::Tensor& like = y.defined() ? y : x;
  if (!grad.defined() || q.grads[1].defined() || at::GradMode::is_enabled() || is_watched() ||
      !like.defined() || !is_ordinary(grad) || !lies_like(grad, like, q.layout))
    return std::nullopt;
  for (const at::Tensor* v : {&x, &y, &residual})
    if (v->defined() && !(is_ordinary(*v) && lies_like(*v, like, q.layout))) return std::nullopt;
  const int64_t channels = q.layout.channels;
  if (!is_vector(weight, channels) || !is_vector(bias, channels) || !is_ordinary(statistics) ||
      statistics.numel() != 3 * channels || !statistics.is_contiguous())
    return std::nullopt;
  if (bits.defined() &&
      !(is_ordinary(bits) && bits.is_contiguous() &&
        bits.numel() == library().bits_bytes(q.layout.outer, channels, q.layout.inner)))
    return std::nullopt;

  const auto [of_x, of_weight, of_bias, of_residual] = q.wanted;
  const bool masked = of_residual && q.activation != L1BN_NONE;
  at::Tensor dx, dweight, dbias, dresidual;
  if (of_x) dx = memory_like(grad);
  if (masked) dresidual = memory_like(grad);
  if (of_weight || of_bias) {
    dweight = at::empty({channels}, statistics.options());
    dbias = at::empty({channels}, statistics.options());
  }
  Call call{like, weight, bias, {}, {}, {}, 0, q.eps, q.parameter, q.activation, false};
  const l1bn_backward_args arguments{problem_of(call, q.layout),
                                     grad.data_ptr(),
                                     address(y),
                                     address(x),
                                     address(residual),
                                     address(bits),
                                     address(weight),
                                     address(bias),
                                     statistics.data_ptr(),
                                     scale_of(statistics),
                                     address(dx),
                                     address(dresidual),
                                     address(dweight),
                                     address(dbias),
                                     0};
  if (library().backward(&arguments) <= L1BN_ERROR) return std::nullopt;
  return Answer{dx, of_weight ? cast(dweight, weight) : at::Tensor(),
                of_bias ? cast(dbias, bias) : at::Tensor(),
                of_residual && !masked ? grad : dresidual};
}

// What both kinds of node share; Kind says whether the output is kept.
template <class Kind>
struct Train : torch::autograd::Function<Kind> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x,
                               const std::optional<at::Tensor>& weight,
                               const std::optional<at::Tensor>& bias,
                               const std::optional<at::Tensor>& residual, const Call& call,
                               const Made& made) {
    const Layout& layout = made.layout;
    ctx->set_materialize_grads(false);
    ctx->saved_data["numbers"] =
        std::vector<int64_t>{call.activation, layout.outer, layout.channels,
                             layout.inner,    layout.rows,  residual.has_value()};
    ctx->saved_data["reals"] = std::vector<double>{call.parameter, call.eps};
    const at::Tensor none;
    if (!made.bits.defined()) {
      // Beside x, y is needed where the activation clips; where it bends, the residual.
      ctx->save_for_backward({x, call.weight, call.bias, made.statistics,
                              Kind::kKeepsOutput ? made.y : none,
                              call.activation > L1BN_RELU6 ? call.residual : none, none, none});
      return {made.y};
    }
    // A second derivative reaches x through y and the scale, both outputs of this node.
    const at::Tensor scale = made.statistics.select(0, 2);
    ctx->save_for_backward(
        {none, call.weight, call.bias, made.statistics, made.y, call.residual, made.bits, scale});
    return {made.y, scale};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    Question question;
    std::copy(grads.begin(), grads.end(), question.grads.begin());
    if (!question.grads[0].defined() && !question.grads[1].defined()) return variable_list(6);
    const variable_list saved = ctx->get_saved_variables();
    std::copy(saved.begin(), saved.end(), question.saved.begin());
    const auto numbers = ctx->saved_data["numbers"].toIntVector();
    const auto reals = ctx->saved_data["reals"].toDoubleVector();
    question.activation = numbers[0];
    question.layout = {numbers[1], numbers[2], numbers[3], numbers[4] != 0};
    question.parameter = reals[0];
    question.eps = reals[1];
    // Edges are numbered without the tensors that were not there.
    const std::array<bool, 4> there{true, saved[1].defined(), saved[2].defined(), numbers[5] != 0};
    size_t edge = 0;
    for (size_t i = 0; i < there.size(); ++i)
      question.wanted[i] = there[i] && ctx->needs_input_grad(edge++);
    const auto quick = by_kernels(question);
    const Answer answer = quick ? *quick : ask(question);
    return {answer[0], answer[1], answer[2], answer[3], {}, {}};
  }
};

// Whoever asks whether an output is kept reads the node's name (l1bn.ops.compiled).
struct TrainKeepingOutput : Train<TrainKeepingOutput> {
  static constexpr bool kKeepsOutput = true;
};
struct TrainKeepingInput : Train<TrainKeepingInput> {
  static constexpr bool kKeepsOutput = false;
};

std::optional<at::Tensor> given(const at::Tensor& tensor) {
  return tensor.defined() ? std::make_optional(tensor) : std::nullopt;
}

template <class Kind>
at::Tensor recorded(const Call& call, const Made& made) {
  return Kind::apply(call.x, given(call.weight), given(call.bias), given(call.residual), call,
                     made)[0];
}

}  // namespace

std::optional<at::Tensor> train(const Call& call) {
  // Where x wants no gradient, but γ or β do, less is kept: that is Python's.
  const bool records = at::GradMode::is_enabled();
  if (is_watched() || (records && !call.x.requires_grad())) return std::nullopt;
  const auto layout = served(call);
  if (!layout) return std::nullopt;
  std::optional<Made> found;
  {
    const at::NoGradGuard unrecorded;
    found = made(call, *layout, records && call.from_output);
  }
  if (!found) return std::nullopt;
  if (!records) return found->y;
  const bool clips = call.activation == L1BN_RELU || call.activation == L1BN_RELU6;
  return found->bits.defined() || clips ? recorded<TrainKeepingOutput>(call, *found)
                                        : recorded<TrainKeepingInput>(call, *found);
}

}  // namespace l1bn
