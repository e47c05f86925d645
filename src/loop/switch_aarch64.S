/* The switch between stacks on aarch64 (AAPCS64): see fiber.h. What it leaves on a stack is laid out in
 * fiber.c. */
#include <config.h>

#if defined(__aarch64__) && defined(__LP64__)
#ifndef SHUNT_UCONTEXT

#ifdef __ARM_FEATURE_BTI_DEFAULT
#define LANDING hint #34 /* bti c, for assemblers that do not know it */
#else
#define LANDING
#endif

#define FRAME 176

.macro save a, b, at
  stp \a, \b, [sp, #\at]
  .cfi_rel_offset \a, \at
  .cfi_rel_offset \b, \at + 8
.endm

  .text
  .p2align 4
  .globl shunt__switch
  .hidden shunt__switch
  .type shunt__switch, %function
shunt__switch: /* (void **saved, void *to) */
  .cfi_startproc
  LANDING
  .cfi_remember_state
  sub sp, sp, #FRAME
  .cfi_adjust_cfa_offset FRAME
  mrs x9, fpcr
  str x9, [sp]
  save x29, x30, 16
  save x19, x20, 32
  save x21, x22, 48
  save x23, x24, 64
  save x25, x26, 80
  save x27, x28, 96
  save d8, d9, 112
  save d10, d11, 128
  save d12, d13, 144
  save d14, d15, 160
  mov x9, sp
  str x9, [x0]
  ldr x9, [x1]
  msr fpcr, x9
  ldp x29, x30, [x1, #16]
  ldp x19, x20, [x1, #32]
  ldp x21, x22, [x1, #48]
  ldp x23, x24, [x1, #64]
  ldp x25, x26, [x1, #80]
  ldp x27, x28, [x1, #96]
  ldp d8, d9, [x1, #112]
  ldp d10, d11, [x1, #128]
  ldp d12, d13, [x1, #144]
  ldp d14, d15, [x1, #160]
  add sp, x1, #FRAME
  .cfi_restore_state
  ret
  .cfi_endproc
  .size shunt__switch, . - shunt__switch

/* Where a new fiber's first switch returns to. Nobody called it, and unwinders are told so. */
  .p2align 4
  .globl shunt__fiber_start
  .hidden shunt__fiber_start
  .type shunt__fiber_start, %function
shunt__fiber_start:
  .cfi_startproc
  .cfi_undefined x30
  mov x0, x19
  mov x1, x20
  bl shunt__fiber_main
  brk #1
  .cfi_endproc
  .size shunt__fiber_start, . - shunt__fiber_start
#endif

/* What this file may be linked into (-mbranch-protection): branch target identification, yes; guarded control
 * stacks only when the code above is not in it, or the first switch would be the program's last. */
#ifdef __ARM_FEATURE_BTI_DEFAULT
#if defined(SHUNT_UCONTEXT) && defined(__ARM_FEATURE_GCS_DEFAULT)
#define FEATURES 5
#else
#define FEATURES 1
#endif
  .section .note.gnu.property, "a"
  .balign 8
  .long 4, 16, 5
  .asciz "GNU"
  .long 0xc0000000, 4, FEATURES, 0
#endif
#endif

  .section .note.GNU-stack, "", %progbits
