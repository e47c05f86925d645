/* Fibers: places where one thread can be, and between which it moves by a function call.
 *
 * A fiber is the thread's own stack (adopted) or a stack of ours (made). To switch is to save what the
 * calling convention says a call preserves (registers, and the control words of the floating point units)
 * on the stack that is left, and to take the same back from the stack that is entered. So all there is to a
 * fiber that does not run is the address of what it saved.
 *
 * The switch is assembly on x86-64 and aarch64 (switch_*.S), ucontext elsewhere and where SHUNT_UCONTEXT is
 * defined: slower by two system calls, but it knows what the C library knows, such as shadow stacks
 * (fiber.c).
 *
 * Safety: fibers are the business of the one thread that adopted its stack: made, switched and dropped on
 * it, nowhere else. errno, thread-local variables and the signal mask belong to the thread, not to the
 * fiber. Nothing may leave a fiber by unwinding: no exception and no longjmp from one stack to another.
 *
 * Address sanitizer, thread sanitizer and valgrind are told of each stack and each switch in builds that
 * have them; in others those lines are not there, and a switch is one call. */
#ifndef SHUNT_LOOP_FIBER_H
#define SHUNT_LOOP_FIBER_H

#include <stddef.h>

#if !defined(__LP64__) || !(defined(__x86_64__) || defined(__aarch64__))
#undef SHUNT_UCONTEXT
#define SHUNT_UCONTEXT 1
#endif

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/common_interface_defs.h>
#define SHUNT__ASAN 1
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#include <sanitizer/tsan_interface.h>
#define SHUNT__TSAN 1
#endif

typedef struct shunt__fiber {
  void *saved; /* what the last switch away left on this fiber's stack; stale while it runs */
#ifdef HAVE_VALGRIND_H
  unsigned valgrind_id;
#endif
#ifdef SHUNT__ASAN
  const void *stack_base;
  size_t stack_size;
  void *fake_stack; /* where locals are kept when uses after return are looked for */
#endif
#ifdef SHUNT__TSAN
  void *tsan_fiber;
#endif
} shunt__fiber_t;

/* *f becomes the stack that the calling thread is on. Needs no drop. */
void shunt__fiber_adopt(shunt__fiber_t *f);

/* *f becomes a call of entry(arg) that waits to be switched to, on stack_size bytes from stack_base.
 * Touches nothing of the stack but its top. The floating point units start in their default state, whatever
 * the caller has set. entry never returns: the program is aborted if it does.
 *
 * 0; UV_ENOTSUP when the thread runs with a shadow stack, of which the assembly does not know (see
 * fiber.c). */
int shunt__fiber_make(shunt__fiber_t *f, void *stack_base, size_t stack_size, void (*entry)(void *arg),
                      void *arg);

/* Ends a made fiber that is not running, wherever in its code it stands: nothing on its stack is unwound.
 * After this, and not before, the stack may be used for something else or unmapped. */
void shunt__fiber_drop(shunt__fiber_t *f);

/* The bare switch: leaves at *saved what continues here, and continues what was left at `to`. */
void shunt__switch(void **saved, void *to);

/* Leaves `from`, which is running, for `to`, which is not. Returns when someone switches to `from` again. */
static inline void shunt__fiber_switch(shunt__fiber_t *from, shunt__fiber_t *to) {
#ifdef SHUNT__TSAN
  __tsan_switch_to_fiber(to->tsan_fiber, 0);
#endif
#ifdef SHUNT__ASAN
  __sanitizer_start_switch_fiber(&from->fake_stack, to->stack_base, to->stack_size);
#endif
  shunt__switch(&from->saved, to->saved);
#ifdef SHUNT__ASAN
  __sanitizer_finish_switch_fiber(from->fake_stack, NULL, NULL);
#endif
}

#endif
