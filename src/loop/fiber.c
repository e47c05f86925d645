/* Fibers: how one is made, what it does first, and what the tools that watch memory are told. The contract
 * is in fiber.h.
 *
 * A new fiber is a stack on which a switch seems to have been left already: prepare() lays out what
 * switch_*.S expects to find, with a return address that leads to shunt__fiber_start, and from there to
 * shunt__fiber_main, the first frame in C. With ucontext the same place holds a context, and there too it
 * lies on the stack that it describes. So either way a fiber is one pointer: making it allocates nothing,
 * dropping it frees nothing.
 *
 * Shadow stacks (SHSTK on x86, GCS on aarch64) are second stacks, of return addresses, to be switched in
 * step. The assembly does not do that, and says so in its object file: the loader then runs the program
 * without them, or refuses to load the library into one that has them on. Should one be on all the same,
 * make returns UV_ENOTSUP rather than let the program die. A build with SHUNT_UCONTEXT claims shadow stacks
 * and gets them: the C library's contexts bring their own, though it never frees them. */
#include <config.h>

#include "fiber.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <uv.h>

#ifdef HAVE_VALGRIND_H
#include <valgrind/valgrind.h>
#endif

/* Called by shunt__fiber_start. */
_Noreturn void shunt__fiber_main(void (*entry)(void *arg), void *arg);

_Noreturn void shunt__fiber_main(void (*entry)(void *arg), void *arg) {
#ifdef SHUNT__ASAN
  __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
  entry(arg);
  fputs("shunt: the entry function of a fiber returned\n", stderr);
  abort();
}

#ifdef SHUNT_UCONTEXT

#include <fenv.h>
#include <ucontext.h>

static bool has_shadow_stack(void) {
  return false;
}

/* Not instrumented, so that `here` lies on this very stack, as the assembly's registers do. */
__attribute__((no_sanitize("address", "thread"))) void shunt__switch(void **saved, void *to) {
  ucontext_t here;
  *saved = &here;
  swapcontext(&here, to);
}

/* makecontext passes ints, and pointers are two of them. */
static void start(unsigned entry_high, unsigned entry_low, unsigned arg_high, unsigned arg_low) {
  uintptr_t entry = (uintptr_t)((uint64_t)entry_high << 32 | entry_low);
  uintptr_t arg = (uintptr_t)((uint64_t)arg_high << 32 | arg_low);
  fesetenv(FE_DFL_ENV);
  shunt__fiber_main((void (*)(void *))entry, (void *)arg);
}

static void *prepare(char *base, char *top, void (*entry)(void *arg), void *arg) {
  ucontext_t *context = (ucontext_t *)top - 1;
  uint64_t e = (uintptr_t)entry, a = (uintptr_t)arg;
  getcontext(context);
  context->uc_stack.ss_sp = base;
  context->uc_stack.ss_size = (size_t)((char *)context - base);
  context->uc_link = NULL;
  makecontext(context, (void (*)(void))start, 4, (unsigned)(e >> 32), (unsigned)e, (unsigned)(a >> 32),
              (unsigned)a);
  return context;
}

#else

void shunt__fiber_start(void);

#ifdef __x86_64__

/* What shunt__switch leaves on a stack, lowest address first. */
typedef struct {
  uint32_t mxcsr, x87;
  void *r15, *r14, *r13, *r12;
  void (*rbx)(void *arg);
  void *rbp;
  void (*return_to)(void);
} saved_t;

/* The control words are those that the ABI gives a new process. */
static saved_t fresh(void (*entry)(void *arg), void *arg) {
  return (saved_t){
    .mxcsr = 0x1f80, .x87 = 0x037f, .r12 = arg, .rbx = entry, .return_to = shunt__fiber_start};
}

static bool has_shadow_stack(void) {
  uint64_t pointer = 0;
  __asm__ volatile("rdsspq %0" : "+r"(pointer)); /* does nothing where there is none */
  return pointer != 0;
}

#else

/* The same for aarch64. */
typedef struct {
  uint64_t fpcr, unused;
  void *x29;
  void (*x30)(void);
  void (*x19)(void *arg);
  void *x20, *x21_to_x28[8];
  uint64_t d8_to_d15[8];
} saved_t;

static saved_t fresh(void (*entry)(void *arg), void *arg) {
  return (saved_t){.x30 = shunt__fiber_start, .x19 = entry, .x20 = arg};
}

static bool has_shadow_stack(void) {
  register uint64_t feature __asm__("x16") = 1;
  __asm__ volatile("hint #40" : "+r"(feature)); /* chkfeat x16: clears the bits of features that are on */
  return feature == 0;
}

#endif

static void *prepare(char *base, char *top, void (*entry)(void *arg), void *arg) {
  (void)base;
  saved_t *saved = (saved_t *)top - 1;
  *saved = fresh(entry, arg);
  return saved;
}

_Static_assert(sizeof(saved_t) % 16 == 0, "the first call on a stack finds it aligned to 16");

#endif

/* ---- what the tools are told ---- */

#ifdef SHUNT__ASAN
#include <sanitizer/asan_interface.h>

/* Address sanitizer believes what it is told about where the thread is. These two tell it stories, and must
 * not be instrumented meanwhile.
 *
 * It knows the bounds of the thread's own stack, and says them when that is left. */
__attribute__((no_sanitize("address"))) static void learn_bounds(shunt__fiber_t *f) {
  __sanitizer_start_switch_fiber(&f->fake_stack, NULL, 0);
  __sanitizer_finish_switch_fiber(f->fake_stack, &f->stack_base, &f->stack_size);
  __sanitizer_start_switch_fiber(&f->fake_stack, f->stack_base, f->stack_size);
  __sanitizer_finish_switch_fiber(f->fake_stack, NULL, NULL);
}

/* It frees a fake stack when the fiber leaves for good, not when another one gives it up. The red zones of
 * the frames that are given up are ours to wipe off. */
__attribute__((no_sanitize("address"))) static void forget_frames(shunt__fiber_t *f) {
  shunt__fiber_t here;
  __sanitizer_start_switch_fiber(&here.fake_stack, f->stack_base, f->stack_size);
  __sanitizer_finish_switch_fiber(f->fake_stack, &here.stack_base, &here.stack_size);
  __sanitizer_start_switch_fiber(NULL, here.stack_base, here.stack_size);
  __sanitizer_finish_switch_fiber(here.fake_stack, NULL, NULL);
  const char *top = (const char *)f->stack_base + f->stack_size;
  __asan_unpoison_memory_region(f->saved, (size_t)(top - (const char *)f->saved));
}
#endif

void shunt__fiber_adopt(shunt__fiber_t *f) {
  *f = (shunt__fiber_t){.saved = NULL};
#ifdef SHUNT__ASAN
  learn_bounds(f);
#endif
#ifdef SHUNT__TSAN
  f->tsan_fiber = __tsan_get_current_fiber();
#endif
}

int shunt__fiber_make(shunt__fiber_t *f, void *stack_base, size_t stack_size, void (*entry)(void *arg),
                      void *arg) {
  if (has_shadow_stack()) return UV_ENOTSUP;
  uintptr_t top = ((uintptr_t)stack_base + stack_size) & ~(uintptr_t)15;
  *f = (shunt__fiber_t){.saved = prepare(stack_base, (char *)top, entry, arg)};
#ifdef SHUNT__ASAN
  f->stack_base = stack_base;
  f->stack_size = stack_size;
#endif
#ifdef SHUNT__TSAN
  f->tsan_fiber = __tsan_create_fiber(0);
#endif
#ifdef HAVE_VALGRIND_H
  /* Not top - 1: an empty stack's pointer must not be taken for the next stack's. */
  f->valgrind_id = VALGRIND_STACK_REGISTER(stack_base, top);
#endif
  return 0;
}

void shunt__fiber_drop(shunt__fiber_t *f) {
#ifdef SHUNT__ASAN
  forget_frames(f);
#endif
#ifdef SHUNT__TSAN
  __tsan_destroy_fiber(f->tsan_fiber);
#endif
#ifdef HAVE_VALGRIND_H
  VALGRIND_STACK_DEREGISTER(f->valgrind_id);
#endif
  f->saved = NULL;
}
