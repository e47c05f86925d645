/* First fit over a list of holes. There are few large buffers in flight at a time, so the list is short. */
#include <config.h>

#include "arena.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#define PAGE 4096u
#define KEEP_WARM (UINT64_C(64) << 20) /* beyond this, pages of a hole go back to the system */

static uint64_t pages(uint64_t size) { return (size + PAGE - 1) & ~(uint64_t)(PAGE - 1); }

int shunt__arena_fd(const char *name, uint64_t size) {
  int fd = memfd_create(name, MFD_CLOEXEC);
  if (fd < 0) return -errno;
  if (!ftruncate(fd, (off_t)size)) return fd;
  int err = -errno;
  close(fd);
  return err;
}

/* What a limit leaves for one mapping of several, or for one file. */
static uint64_t limited(uint64_t size, int resource, uint64_t share) {
  struct rlimit limit;
  if (getrlimit(resource, &limit) || limit.rlim_cur == RLIM_INFINITY) return size;
  return size * share > limit.rlim_cur ? pages(limit.rlim_cur / share) : size;
}

uint64_t shunt__arena_default_size(void) {
  uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE), size = UINT64_C(1)
                                                                                                << 30;
  while (size < memory && size < UINT64_C(1) << 38) size *= 2;
  size = limited(size, RLIMIT_FSIZE, 2); /* or ftruncate would end the program by SIGXFSZ */
  return limited(size, RLIMIT_AS, 16);
}

static shunt__hole_t *new_hole(uint64_t offset, uint64_t size, shunt__hole_t *next) {
  shunt__hole_t *h = malloc(sizeof *h);
  if (h) *h = (shunt__hole_t){next, offset, size};
  return h;
}

int shunt__arena_init(shunt__arena_t *a, int fd, uint64_t first, uint64_t size) {
  first = pages(first);
  *a = (shunt__arena_t){.fd = fd, .size = size, .holes = new_hole(first, size - first, NULL)};
  return a->holes ? 0 : UV_ENOMEM;
}

void shunt__arena_fini(shunt__arena_t *a) {
  for (shunt__hole_t *h; (h = a->holes);) {
    a->holes = h->next;
    free(h);
  }
}

uint64_t shunt__arena_take(shunt__arena_t *a, uint64_t size) {
  shunt__hole_t **at = &a->holes;
  size = pages(size);
  while (*at && (*at)->size < size) at = &(*at)->next;
  shunt__hole_t *h = *at;
  if (!h || fallocate(a->fd, 0, (off_t)h->offset, (off_t)size)) return 0;
  uint64_t offset = h->offset;
  a->warm -= size < a->warm ? size : a->warm;
  h->offset += size;
  h->size -= size;
  if (!h->size) {
    *at = h->next;
    free(h);
  }
  return offset;
}

static void cool(shunt__arena_t *a, uint64_t offset, uint64_t size) {
  if (a->warm + size <= KEEP_WARM)
    a->warm += size;
  else
    (void)!fallocate(a->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size);
}

void shunt__arena_give(shunt__arena_t *a, uint64_t offset, uint64_t size) {
  shunt__hole_t **at = &a->holes, *before = NULL;
  size = pages(size);
  cool(a, offset, size);
  for (; *at && (*at)->offset < offset; at = &(*at)->next) before = *at;
  shunt__hole_t *after = *at;
  bool joins = after && offset + size == after->offset;
  if (before && before->offset + before->size == offset) {
    before->size += size;
    if (!joins) return;
    before->size += after->size;
    before->next = after->next;
    free(after);
  } else if (joins) {
    after->offset = offset;
    after->size += size;
  } else {
    shunt__hole_t *h = new_hole(offset, size, after);
    if (h) *at = h; /* else these pages are lost to the arena until it goes */
  }
}
