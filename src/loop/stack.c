/* The pool of stacks: see stack.h.
 *
 * What keeps it small: a free stack holds the link to the next one in its own top word, in the page that
 * its last fiber touched and its next one will touch first; and the sizes of slabs follow from their
 * numbers. So the pool is a few words, and putting a stack back cannot fail. */
#include <config.h>

#include "stack.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>
#include <uv.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

enum { FIRST_SLAB = 64, LEAST_USE = 16 * 1024 };

static size_t slab_bytes(const shunt__stacks_t *p, unsigned i) {
  return ((size_t)FIRST_SLAB << i) * p->stack_size;
}

static void **link_of(const shunt__stacks_t *p, void *base) {
  return (void **)((char *)base + p->stack_size) - 1;
}

void shunt__stacks_init(shunt__stacks_t *p, size_t stack_size) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), most = PTRDIFF_MAX / FIRST_SLAB;
  if (stack_size < page + LEAST_USE) stack_size = page + LEAST_USE;
  if (stack_size > most) stack_size = most;
  *p = (shunt__stacks_t){.stack_size = (stack_size + page - 1) & ~(page - 1)};
}

/* A huge page would make the first touch of one stack the memory of eight. */
static int add_slab(shunt__stacks_t *p) {
  if (p->slabs == SHUNT__SLABS_MAX) return UV_ENOMEM;
  size_t size = slab_bytes(p, p->slabs);
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK;
  void *slab = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (slab == MAP_FAILED) return UV_ENOMEM;
  madvise(slab, size, MADV_NOHUGEPAGE);
  p->slab[p->slabs++] = slab;
  p->uncut = slab;
  p->uncut_end = p->uncut + size;
  return 0;
}

/* The cheap guard is refused by older kernels, for memory that is locked, and by valgrind. */
static int guard(void *base) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  return madvise(base, page, MADV_GUARD_INSTALL) && mprotect(base, page, PROT_NONE) ? UV_ENOMEM : 0;
}

static int cut_stack(shunt__stacks_t *p, void **base) {
  if (p->uncut == p->uncut_end) {
    int err = add_slab(p);
    if (err) return err;
  }
  int err = guard(p->uncut);
  if (err) return err;
  *base = p->uncut;
  p->uncut += p->stack_size;
  return 0;
}

int shunt__stack_get(shunt__stacks_t *p, void **base) {
  if (!p->free) return cut_stack(p, base);
  *base = p->free;
  p->free = *link_of(p, *base);
  return 0;
}

void shunt__stack_put(shunt__stacks_t *p, void *base) {
  *link_of(p, base) = p->free;
  p->free = base;
}

void shunt__stacks_destroy(shunt__stacks_t *p) {
  for (unsigned i = 0; i < p->slabs; i++) munmap(p->slab[i], slab_bytes(p, i));
  *p = (shunt__stacks_t){.stack_size = p->stack_size};
}
