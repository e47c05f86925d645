/* Strands: parking, waking, and the strand of a plain thread. The protocol is in strand.h. */
#include <config.h>

#include "strand.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

uint64_t shunt__now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t shunt__deadline(uint64_t timeout_ms) {
  uint64_t now = shunt__now();
  return timeout_ms > (SHUNT__NEVER - 1 - now) / 1000000u ? SHUNT__NEVER : now + timeout_ms * 1000000u;
}

void shunt__futex_wait(_Atomic(uint32_t) *word, uint32_t value, uint64_t deadline, bool shared) {
  struct timespec ts = {(time_t)(deadline / 1000000000u), (long)(deadline % 1000000000u)};
  /* FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC time, so an early return need not recompute what is
   * left. */
  syscall(SYS_futex, word, FUTEX_WAIT_BITSET | (shared ? 0 : FUTEX_PRIVATE_FLAG), value,
          deadline == SHUNT__NEVER ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);
}

void shunt__futex_wake(_Atomic(uint32_t) *word, int count, bool shared) {
  syscall(SYS_futex, word, FUTEX_WAKE | (shared ? 0 : FUTEX_PRIVATE_FLAG), count, NULL, NULL, 0);
}

int shunt__poll(struct pollfd *fds, unsigned n, uint64_t deadline) {
  uint64_t now = deadline && deadline != SHUNT__NEVER ? shunt__now() : 0,
           left = deadline > now ? deadline - now : 0;
  struct timespec ts = {(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
  int ready = ppoll(fds, n, deadline == SHUNT__NEVER ? NULL : &ts, NULL);
  return ready >= 0 ? ready : errno == EINTR ? 0 : -errno;
}

/* ---- park ---- */

int shunt__park(shunt__strand_t *s, uint64_t deadline) {
  uint32_t running = SHUNT__RUNNING;
  int err = 0;
  /* Acquire on both ways out: what the waker did before it woke us is seen by the condition that the caller
   * checks next. */
  if (atomic_compare_exchange_strong_explicit(&s->word, &running, SHUNT__PARKED, memory_order_acq_rel,
                                              memory_order_acquire))
    err = s->ops->sleep(s, deadline);
  atomic_exchange_explicit(&s->word, SHUNT__RUNNING, memory_order_acq_rel);
  return err;
}

void shunt__unpark(shunt__strand_t *s) {
  /* Whoever finds PARKED has the one right to wake; the strand cannot leave the sleep for good before
   * that. */
  uint32_t was = atomic_exchange_explicit(&s->word, SHUNT__NOTIFIED, memory_order_acq_rel);
  if (was == SHUNT__PARKED) s->wake(s);
  if (was == SHUNT__POLLING) (void)eventfd_write(s->bell, 1);
}

int shunt__thread_sleep(shunt__strand_t *s, uint64_t deadline) {
  shunt__futex_wait(&s->word, SHUNT__PARKED, deadline, false);
  return 0;
}

static int bell_of(shunt__strand_t *s) {
  /* As a semaphore: after a fork both processes have this bell, and each reads what was written for it and no
   * more. */
  if (s->bell < 0) s->bell = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
  return s->bell < 0 ? -errno : s->bell;
}

int shunt__thread_wait_fd(shunt__strand_t *s, int fd, int events, uint64_t deadline) {
  struct pollfd fds[] = {{fd, (short)events, 0}, {bell_of(s), POLLIN, 0}};
  uint32_t running = SHUNT__RUNNING;
  int err = fds[1].fd < 0 ? fds[1].fd : 0;
  eventfd_t rung;
  if (err) return err;
  /* As shunt__park(), but that a wake is over only when it has been heard. */
  bool polls = atomic_compare_exchange_strong_explicit(&s->word, &running, SHUNT__POLLING,
                                                       memory_order_acq_rel, memory_order_acquire);
  if (polls) err = shunt__poll(fds, 2, deadline);
  bool woken = atomic_exchange_explicit(&s->word, SHUNT__RUNNING, memory_order_acq_rel) == SHUNT__NOTIFIED;
  while (polls && woken && eventfd_read(s->bell, &rung) && errno == EINTR) {
  }
  return err < 0 ? err : fds[0].revents & POLLNVAL ? -EBADF : 0;
}

static void wake_thread(shunt__strand_t *s) { shunt__futex_wake(&s->word, 1, false); }

void shunt__thread_yield(shunt__strand_t *s) {
  (void)s;
  sched_yield();
}

static const shunt__strand_ops_t thread_ops = {shunt__thread_sleep, shunt__thread_wait_fd,
                                               shunt__thread_yield, SHUNT__HELPS, true};

/* ---- which strand is this? ---- */

static pthread_mutex_t rest_lock = PTHREAD_MUTEX_INITIALIZER;
static shunt__strand_t *threads_at_rest, *fibers_at_rest; /* strands without an owner, under rest_lock */

static shunt__strand_t **rest_of(void (*wake)(shunt__strand_t *s)) {
  return wake == wake_thread ? &threads_at_rest : &fibers_at_rest;
}

shunt__strand_t *shunt__strand_new(void (*wake)(shunt__strand_t *s), const shunt__strand_ops_t *ops,
                                   void *owner) {
  shunt__strand_t **rest = rest_of(wake);
  pthread_mutex_lock(&rest_lock);
  shunt__strand_t *s = *rest;
  if (s) *rest = s->next;
  pthread_mutex_unlock(&rest_lock);
  if (!s) {
    if (!(s = calloc(1, sizeof *s))) return NULL;
    s->wake = wake;
  }
  s->ops = ops;
  s->owner = owner;
  s->frame = NULL;
  s->next = NULL;
  s->bell = -1;
  return s;
}

void shunt__strand_rest(shunt__strand_t *s) {
  shunt__strand_t **rest = rest_of(s->wake);
  if (s->bell >= 0) close(s->bell);
  pthread_mutex_lock(&rest_lock);
  s->next = *rest;
  *rest = s;
  pthread_mutex_unlock(&rest_lock);
}

static _Thread_local shunt__strand_t *fiber_strand;  /* of the fiber that runs on this thread, or NULL */
static _Thread_local shunt__strand_t *thread_strand; /* of the thread itself, or NULL until asked for */
static pthread_key_t thread_key;
static pthread_once_t thread_key_once = PTHREAD_ONCE_INIT;

static void thread_ends(void *s) {
  thread_strand = NULL;
  shunt__strand_rest(s);
}

static void make_thread_key(void) {
  /* Without a key (out of keys) a thread's strand stays behind when the thread ends: some bytes, and perhaps
   * a bell. */
  if (pthread_key_create(&thread_key, thread_ends)) thread_key = (pthread_key_t)-1;
}

shunt__strand_t *shunt__strand(void) {
  if (fiber_strand) return fiber_strand;
  if (thread_strand) return thread_strand;
  pthread_once(&thread_key_once, make_thread_key);
  thread_strand = shunt__strand_new(wake_thread, &thread_ops, NULL);
  if (thread_strand && thread_key != (pthread_key_t)-1) pthread_setspecific(thread_key, thread_strand);
  return thread_strand;
}

bool shunt__on_fiber(void) { return fiber_strand != NULL; }

void shunt__strand_enter(shunt__strand_t *s) { fiber_strand = s; }

void shunt__strand_plain(void) {
  if (!thread_strand) return;
  thread_strand->ops = &thread_ops;
  thread_strand->owner = NULL;
}

/* ---- threads ---- */

bool shunt__stack_left(void) {
  static _Thread_local char *middle; /* found once: for the main thread it means to read /proc/self/maps */
  if (!middle) {
    pthread_attr_t attr;
    void *low;
    size_t size;
    if (pthread_getattr_np(pthread_self(), &attr)) return false;
    pthread_attr_getstack(&attr, &low, &size);
    pthread_attr_destroy(&attr);
    middle = (char *)low + size / 2;
  }
  return (char *)__builtin_frame_address(0) > middle;
}

int shunt__thread_create(pthread_t *thread, void *(*fn)(void *), void *arg) {
  sigset_t all, old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  int err = pthread_create(thread, NULL, fn, arg);
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  return err;
}
