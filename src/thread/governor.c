/* The governor: decides, while tasks wait and enough workers seem busy, whether those really use a CPU.
 *
 * A worker is blocked when its CPU clock stands still and the kernel does not call it runnable: the clock
 * alone would also be still on a machine that is busy with other things, and more threads would then make
 * matters worse. It looks once a millisecond, more seldom when looking takes long, and only while there is
 * something to decide. When all are blocked it doubles their number, so that 256 blocked calls overlap within
 * ten looks. */
#include <config.h>

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "pool.h"

#define LOOK_NS 1000000
#define COST_LIMIT 20 /* spend at most one part in this many of a core on looking */

static uint64_t cpu_clock(pthread_t thread) {
  clockid_t clock;
  struct timespec ts;
  if (pthread_getcpuclockid(thread, &clock) || clock_gettime(clock, &ts)) return 0;
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static bool runnable(pid_t tid) {
  char path[64], stat[128];
  snprintf(path, sizeof path, "/proc/self/task/%d/stat", (int)tid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  ssize_t n = read(fd, stat, sizeof stat - 1);
  close(fd);
  stat[n > 0 ? n : 0] = '\0';
  const char *name_ends = strrchr(stat, ')');
  return name_ends && name_ends[1] && name_ends[2] == 'R';
}

/* The busy workers that use no CPU. Reads every clock, so that the next look has something to compare
 * with. */
static unsigned count_blocked(shunt__pool_t *p, uint64_t interval) {
  unsigned blocked = 0;
  for (shunt__worker_t *w = p->workers; w; w = w->next) {
    if (!w->busy || !w->tid) continue;
    uint64_t cpu = cpu_clock(w->thread), used = cpu - w->cpu_seen;
    w->cpu_seen = cpu;
    if (used < interval / 10 && !runnable(w->tid)) blocked++;
  }
  return blocked;
}

static unsigned wanted(const shunt__pool_t *p, unsigned blocked) {
  unsigned running = p->busy > blocked ? p->busy - blocked : 0;
  unsigned ready = shunt__pool_ready(p);
  if (running >= p->cores) return 0;
  unsigned more = running || !p->threads ? p->cores - running : p->busy + p->cores;
  return more < ready ? more : ready;
}

static void look(shunt__pool_t *p) {
  uint64_t now = shunt__now(), interval = now - p->governor.looked;
  p->governor.looked = now;
  unsigned blocked = count_blocked(p, interval);
  for (unsigned n = wanted(p, blocked); n > 0 && shunt__pool_add(p); n--) {
  }
}

static void pause_until(shunt__pool_t *p, uint64_t when) {
  struct timespec ts = {(time_t)(when / 1000000000u), (long)(when % 1000000000u)};
  while (!p->closing && shunt__now() < when) pthread_cond_timedwait(&p->governor.trouble, &p->lock, &ts);
}

void *shunt__govern(void *pool) {
  shunt__pool_t *p = pool;
  pthread_mutex_lock(&p->lock);
  while (!p->closing) {
    if (!shunt__pool_ready(p)) {
      pthread_cond_wait(&p->governor.trouble, &p->lock);
      p->governor.looked = shunt__now();
      continue;
    }
    uint64_t start = shunt__now();
    look(p);
    uint64_t cost = shunt__now() - start;
    pause_until(p, start + (cost * COST_LIMIT > LOOK_NS ? cost * COST_LIMIT : LOOK_NS));
  }
  pthread_mutex_unlock(&p->lock);
  return NULL;
}
