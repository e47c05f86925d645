/* A pool of equal stacks for fibers. Used from one thread only.
 *
 * Stacks are cut from slabs, each a single mapping, of 64 stacks and then twice as many each time: a
 * million stacks are 14 mappings. A stack costs address space until it is touched; a fiber that sleeps near
 * the top of its stack costs one page, and its share of a page table (512 bytes with stacks of 256 KiB).
 *
 * The lowest page of each stack is a guard, so that an overflow is a SIGSEGV and not a neighbour's memory.
 * Where the kernel has MADV_GUARD_INSTALL (Linux 6.13) guards cost no mappings; elsewhere each stack costs
 * two, and the usual limit (vm.max_map_count, 65,530) leaves room for about 32,000 stacks.
 *
 * Slabs are unmapped when the pool is destroyed, not before. */
#ifndef SHUNT_LOOP_STACK_H
#define SHUNT_LOOP_STACK_H

#include <stddef.h>

enum { SHUNT__SLABS_MAX = 24 }; /* room for a billion stacks */

typedef struct shunt__stacks {
  size_t stack_size;            /* of each stack, guard included */
  void *free;                   /* the stack put back last; its top word leads to the one before it */
  char *uncut, *uncut_end;      /* what is left of the newest slab */
  unsigned slabs;
  void *slab[SHUNT__SLABS_MAX]; /* slab[i] holds 64 << i stacks */
} shunt__stacks_t;

/* stack_size is rounded up to pages, and up to the least that is of use: the guard and 16 KiB. */
void shunt__stacks_init(shunt__stacks_t *p, size_t stack_size);

/* Gives the stack that was put back last, or a new one: p->stack_size bytes from *base. 0 or UV_ENOMEM. */
int shunt__stack_get(shunt__stacks_t *p, void **base);

/* Takes back a stack on which no fiber runs, nor waits: see shunt__fiber_drop. Never fails. */
void shunt__stack_put(shunt__stacks_t *p, void *base);

/* Unmaps everything. All stacks have been put back, or at least nobody will touch one again. */
void shunt__stacks_destroy(shunt__stacks_t *p);

#endif
