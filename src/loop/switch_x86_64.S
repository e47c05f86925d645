/* The switch between stacks on x86-64 (System V): see fiber.h. What it leaves on a stack is laid out in
 * fiber.c.
 *
 * Loads and stores, not pops and pushes: a processor runs ahead of the former, not of the latter, and where
 * many fibers take turns the next stack is rarely in the cache (10,000 in the order of their stacks, on a
 * Zen 5: 11 ns a switch instead of 48). What is saved lies below the stack pointer, in the red zone, which
 * signals spare. */
#include <config.h>

#if defined(__x86_64__) && defined(__LP64__)
#ifndef SHUNT_UCONTEXT

#ifdef __CET__
#define LANDING endbr64
#else
#define LANDING
#endif

.macro save reg, at
  mov %\reg, \at(%rsp)
  .cfi_rel_offset \reg, \at
.endm

  .text
  .p2align 4
  .globl shunt__switch
  .hidden shunt__switch
  .type shunt__switch, @function
shunt__switch: /* (void **saved, void *to) */
  .cfi_startproc
  LANDING
  .cfi_remember_state
  save rbp, -8
  save rbx, -16
  save r12, -24
  save r13, -32
  save r14, -40
  save r15, -48
  fnstcw -52(%rsp)
  stmxcsr -56(%rsp)
  lea -56(%rsp), %rax
  mov %rax, (%rdi)
  ldmxcsr (%rsi)
  fldcw 4(%rsi)
  mov 8(%rsi), %r15
  mov 16(%rsi), %r14
  mov 24(%rsi), %r13
  mov 32(%rsi), %r12
  mov 40(%rsi), %rbx
  mov 48(%rsi), %rbp
  lea 56(%rsi), %rsp
  .cfi_restore_state
  ret
  .cfi_endproc
  .size shunt__switch, . - shunt__switch

/* Where a new fiber's first switch returns to. Nobody called it, and unwinders are told so. */
  .p2align 4
  .globl shunt__fiber_start
  .hidden shunt__fiber_start
  .type shunt__fiber_start, @function
shunt__fiber_start:
  .cfi_startproc
  .cfi_undefined rip
  mov %rbx, %rdi
  mov %r12, %rsi
  call shunt__fiber_main
  ud2
  .cfi_endproc
  .size shunt__fiber_start, . - shunt__fiber_start
#endif

/* What this file may be linked into (-fcf-protection): indirect branch tracking, yes; shadow stacks only
 * when the code above is not in it, or the first switch would be the program's last. */
#ifdef __CET__
#ifdef SHUNT_UCONTEXT
#define FEATURES __CET__
#else
#define FEATURES (__CET__ & 1)
#endif
  .section .note.gnu.property, "a"
  .balign 8
  .long 4, 16, 5
  .asciz "GNU"
  .long 0xc0000002, 4, FEATURES, 0
#endif
#endif

  .section .note.GNU-stack, "", %progbits
