// The Python module: one function that a layer calls, and what the node asks Python for.
#include <Python.h>
#include <torch/csrc/autograd/python_variable.h>

#include <stdexcept>

#include "library.h"
#include "node.h"

namespace l1bn {
namespace {

// l1bn.ops.cpu.backend.differentiate
PyObject* differentiate = nullptr;

struct Lock {
  PyGILState_STATE state = PyGILState_Ensure();
  ~Lock() { PyGILState_Release(state); }
};

PyObject* wrapped(const at::Tensor& tensor) {
  if (!tensor.defined()) Py_RETURN_NONE;
  return THPVariable_Wrap(tensor);
}

template <size_t n>
PyObject* tuple_of(const std::array<at::Tensor, n>& tensors) {
  PyObject* const made = PyTuple_New(n);
  for (size_t i = 0; made && i < n; ++i) PyTuple_SET_ITEM(made, i, wrapped(tensors[i]));
  return made;
}

// A Python exception goes through the engine as torch's own do.
[[noreturn]] void raise() {
  python_error error;
  error.persist();
  throw error;
}

Answer ask_python(const Question& q) {
  const Lock lock;
  const auto& [outer, channels, inner, rows] = q.layout;
  const auto truth = [&](size_t i) { return q.wanted[i] ? Py_True : Py_False; };
  PyObject* const found =
      PyObject_CallFunction(differentiate, "NN(Ldd)(LLL)(OOOO)", tuple_of(q.grads),
                            tuple_of(q.saved), static_cast<long long>(q.activation), q.parameter,
                            q.eps, static_cast<long long>(outer), static_cast<long long>(channels),
                            static_cast<long long>(inner), truth(0), truth(1), truth(2), truth(3));
  if (!found) raise();
  Answer answer;
  for (size_t i = 0; i < answer.size(); ++i) {
    PyObject* const item = PyTuple_GetItem(found, static_cast<Py_ssize_t>(i));
    if (item && THPVariable_Check(item)) answer[i] = THPVariable_Unpack(item);
  }
  Py_DECREF(found);
  if (PyErr_Occurred()) raise();
  return answer;
}

// A tensor of PyTorch's own class or None; anything else is not of the common kind.
bool take(PyObject* object, at::Tensor& tensor) {
  if (object == Py_None) return true;
  if (!THPVariable_CheckExact(object)) return false;
  tensor = THPVariable_Unpack(object);
  return true;
}

// What an activation is to the kernels: (code, parameter, fewest bytes of an element of which the
// output is kept in the place of the input, 0 for none).
bool take(PyObject* object, Call& call) {
  long long code = 0;
  int bytes = 0;
  if (!PyArg_ParseTuple(object, "Ldi", &code, &call.parameter, &bytes)) return false;
  call.activation = code;
  call.from_output = bytes && call.x.element_size() >= static_cast<size_t>(bytes);
  return true;
}

// train((x, running mean, running variance, weight, bias, residual), momentum, eps, activation)
PyObject* train_python(PyObject*, PyObject* const* given, Py_ssize_t count) {
  if (count != 4 || !PyTuple_Check(given[0]) || PyTuple_GET_SIZE(given[0]) != 6) {
    PyErr_SetString(PyExc_TypeError, "expected six tensors, momentum, eps and an activation");
    return nullptr;
  }
  Call call;
  at::Tensor* const tensors[] = {&call.x,      &call.running_mean, &call.running_var,
                                 &call.weight, &call.bias,         &call.residual};
  for (size_t i = 0; i < 6; ++i)
    if (!take(PyTuple_GET_ITEM(given[0], static_cast<Py_ssize_t>(i)), *tensors[i])) Py_RETURN_NONE;
  if (!call.x.defined() || !PyFloat_Check(given[1]) || !PyFloat_Check(given[2])) Py_RETURN_NONE;
  call.momentum = PyFloat_AS_DOUBLE(given[1]);
  call.eps = PyFloat_AS_DOUBLE(given[2]);
  if (!take(given[3], call)) return nullptr;
  HANDLE_TH_ERRORS
  std::optional<at::Tensor> y;
  {
    const pybind11::gil_scoped_release unlocked;
    y = train(call);
  }
  if (!y) Py_RETURN_NONE;
  return THPVariable_Wrap(std::move(*y));
  END_HANDLE_TH_ERRORS
}

// connect(path of the native library, differentiate, (pooled, limit by dtype ...)): Library's
// fields.
PyObject* connect(PyObject*, PyObject* arguments) {
  const char* path = nullptr;
  PyObject* function = nullptr;
  Library& to = library();
  double* const limits = to.recoverable;
  if (!PyArg_ParseTuple(arguments, "sO(L(dddd))", &path, &function, &to.pooled, &limits[0],
                        &limits[1], &limits[2], &limits[3]))
    return nullptr;
  const char* const wrong = to.open(path);
  if (*wrong) return PyErr_Format(PyExc_ImportError, "%s %s", path, wrong);
  Py_INCREF(function);
  differentiate = function;
  ask = ask_python;
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"train", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(train_python)),
     METH_FASTCALL, nullptr},
    {"connect", connect, METH_VARARGS, nullptr},
    {nullptr, nullptr, 0, nullptr}};

PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "l1bn_node", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace
}  // namespace l1bn

PyMODINIT_FUNC PyInit_l1bn_node() { return PyModule_Create(&l1bn::definition); }
