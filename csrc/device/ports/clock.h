/* The timer that counts instructions: QEMU gives each a nanosecond with `-icount shift=0`. */
#ifndef L1BN_CLOCK_H
#define L1BN_CLOCK_H

void clock_start(void);

#endif
