/* An arena: memory that two processes map, and who has which part of it.
 *
 * The memory is a sparse memfd; the book-keeping lies in the private memory of the one process that allocates
 * (the parent for arguments, a worker for its results), so nothing the other side writes can damage it. Parts
 * are whole pages. What is handed out has been reserved, so that a full machine is an error here and never a
 * SIGBUS later. */
#ifndef SHUNT_ARENA_H
#define SHUNT_ARENA_H

#include <stddef.h>
#include <stdint.h>

typedef struct shunt__hole {
  struct shunt__hole *next; /* by offset */
  uint64_t offset, size;
} shunt__hole_t;

typedef struct {
  int fd;
  uint64_t size;
  shunt__hole_t *holes;
  uint64_t warm; /* bytes in holes whose pages are kept for the next user */
} shunt__arena_t;

/* A memfd of `size` bytes, none of them there yet. The descriptor, or an error. */
int shunt__arena_fd(const char *name, uint64_t size);

/* Begins the books for what lies in fd from `first` on. UV_ENOMEM. */
int shunt__arena_init(shunt__arena_t *a, int fd, uint64_t first, uint64_t size);
void shunt__arena_fini(shunt__arena_t *a);

/* Offset of `size` bytes, or 0 when the arena or the machine is full. */
uint64_t shunt__arena_take(shunt__arena_t *a, uint64_t size);
void shunt__arena_give(shunt__arena_t *a, uint64_t offset, uint64_t size);

/* As large as this machine's memory, the most that a region could ever use; less under `ulimit -f` and
 * `ulimit -v`. */
uint64_t shunt__arena_default_size(void);

#endif
