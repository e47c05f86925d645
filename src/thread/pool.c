/* The thread lane: an elastic pool.
 *
 * Promises: no threads at rest; as many running as there are cores when tasks compute; more, up to
 * max_threads, as soon as those that run are seen to be blocked; a nested await never deadlocks.
 *
 * Operation: one lock, two queues. A submit finds an idle worker or starts one while fewer than `cores` are
 * at work. Beyond that it is the governor's call (governor.c), which looks whether the busy ones really use a
 * CPU. A worker that waits in a call of ours says so, does not count as busy, and has a substitute started if
 * there is work. A waiter whose task is still queued takes it out and runs it itself.
 *
 * Safety: a task is in a queue (t->home says which) or in somebody's hands; the step from one to the other is
 * under the lock, and whoever takes it owns the run's reference. No user code and no settling happens under
 * the lock. */
#include <config.h>

#include "pool.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "run.h"

#define IDLE_NS (UINT64_C(10) * 1000000000)

/* Threads that may exist at once, those that wait in calls of ours included. */
#define CEILING(p) ((p)->rt->options.max_threads + 1024)

static shunt__pool_t *pool_of(shunt_t *rt) { return rt->lanes[SHUNT_LANE_THREAD]; }

/* ---- the queues ---- */

static bool is_computing(const shunt_task_t *t) { return t->kind == SHUNT_CPU; }

static void append(shunt__pool_t *p, shunt_task_t *t) {
  shunt__queue_t *q = is_computing(t) ? &p->computing : &p->blocking;
  t->home = q;
  t->next = NULL;
  t->at = q->end;
  *q->end = t;
  q->end = &t->next;
  p->queued++;
}

static bool unlink_task(shunt__pool_t *p, shunt_task_t *t) {
  shunt__queue_t *q = t->home;
  if (!q) return false;
  if ((*t->at = t->next))
    t->next->at = t->at;
  else
    q->end = t->at;
  t->home = NULL;
  p->queued--;
  return true;
}

static bool gate_open(const shunt__pool_t *p) { return p->computing_now < p->cores; }

unsigned shunt__pool_ready(const shunt__pool_t *p) {
  return p->queued && (p->blocking.first || gate_open(p)) ? p->queued : 0;
}

static shunt_task_t *take(shunt__pool_t *p) {
  shunt_task_t *computing = gate_open(p) ? p->computing.first : NULL, *blocking = p->blocking.first;
  shunt_task_t *t = computing && (p->computing_next || !blocking) ? computing : blocking;
  if (!t) return NULL;
  p->computing_next = t != computing;
  unlink_task(p, t);
  return t;
}

/* ---- how many work ---- */

static void *work(void *worker);

static bool spawn(shunt__pool_t *p) {
  shunt__worker_t *w = p->threads < CEILING(p) ? calloc(1, sizeof *w) : NULL;
  if (!w) return false;
  w->pool = p;
  w->busy = true;
  p->refused = shunt__thread_create(&w->thread, work, w) != 0;
  if (p->refused) {
    free(w);
    return false;
  }
  if ((w->next = p->workers)) w->next->at = &w->next;
  w->at = &p->workers;
  p->workers = w;
  p->threads++;
  p->busy++;
  return true;
}

bool shunt__pool_add(shunt__pool_t *p) {
  if (p->busy + p->summoned >= p->rt->options.max_threads) return false;
  if (p->idle == p->summoned) return spawn(p);
  p->summoned++;
  pthread_cond_signal(&p->work);
  return true;
}

static void call_governor(shunt__pool_t *p) {
  if (!p->governor.exists)
    p->governor.exists = !shunt__thread_create(&p->governor.thread, shunt__govern, p);
  else
    pthread_cond_signal(&p->governor.trouble);
}

/* Sees to it that somebody will take what is ready. Called whenever a task was queued or a worker stopped
 * being busy. One worker is called at a time: it calls the next when it finds more to do. */
static void staff(shunt__pool_t *p) {
  if (!shunt__pool_ready(p) || p->summoned) return;
  if (p->busy >= p->cores || !shunt__pool_add(p)) call_governor(p);
}

/* ---- a worker ---- */

static void leave_busy(shunt__worker_t *w) {
  w->busy = false;
  w->pool->busy--;
}

static void enter_busy(shunt__worker_t *w) {
  w->busy = true;
  w->pool->busy++;
}

/* Waits for work. False: there was none for long enough, or the pool closes. */
static bool idle(shunt__pool_t *p, shunt__worker_t *w) {
  uint64_t until = shunt__now() + IDLE_NS;
  struct timespec ts = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
  int err = 0;
  leave_busy(w);
  p->idle++;
  staff(p); /* it may have left because there were too many at work */
  while (!p->summoned && !p->closing && err != ETIMEDOUT)
    err = pthread_cond_timedwait(&p->work, &p->lock, &ts);
  bool summoned = p->summoned > 0;
  if (summoned) p->summoned--;
  p->idle--;
  enter_busy(w);
  return summoned || (shunt__pool_ready(p) && !p->closing);
}

static void exited(void *strand) { shunt__run_exited(strand); }

/* A task may end its thread: then its handle settles all the same. */
static void run_task(shunt_task_t *t, shunt__strand_t *s, bool joined) {
  shunt__frame_t frame = {.joined = joined};
  if (shunt__claim(t, s)) {
    pthread_cleanup_push(exited, s);
    shunt__run(t, s, &frame);
    pthread_cleanup_pop(false);
  }
  shunt__run_over(t);
}

static void run(shunt__pool_t *p, shunt__worker_t *w, shunt_task_t *t, shunt__strand_t *s) {
  bool computing = is_computing(t);
  p->computing_now += computing;
  w->cpu += computing;
  w->running = true;
  staff(p);
  pthread_mutex_unlock(&p->lock);
  run_task(t, s, false);
  pthread_mutex_lock(&p->lock);
  p->computing_now -= computing;
  w->cpu -= computing;
  w->running = false;
}

/* The worker goes, from its own loop or by a pthread_exit in a task. Each that leaves joins the one that left
 * before it, so that none is left over and nobody waits long. */
static void leave(void *arg) {
  shunt__worker_t *w = arg;
  shunt__pool_t *p = w->pool;
  pthread_mutex_lock(&p->lock);
  leave_busy(w);
  p->computing_now -= w->cpu;
  p->threads--;
  if ((*w->at = w->next)) w->next->at = w->at;
  bool join = p->has_last && !p->left_behind;
  pthread_t last = p->last;
  p->last = w->thread;
  p->has_last = true;
  staff(p);
  if (!p->threads) pthread_cond_signal(&p->gone);
  pthread_mutex_unlock(&p->lock);
  shunt__strand_plain(); /* destructors of the task's own may still wait in here */
  free(w);
  if (join) pthread_join(last, NULL);
}

static const shunt__strand_ops_t worker_ops;

static void *work(void *arg) {
  shunt__worker_t *w = arg;
  shunt__pool_t *p = w->pool;
  shunt__strand_t *s = shunt__strand();
  if (s) {
    s->ops = &worker_ops;
    s->owner = w;
  }
  pthread_cleanup_push(leave, w);
  pthread_mutex_lock(&p->lock);
  w->tid = (pid_t)syscall(SYS_gettid);
  if (s) {
    do {
      for (shunt_task_t *t; p->busy <= p->rt->options.max_threads && (t = take(p));) run(p, w, t, s);
    } while (idle(p, w));
  }
  pthread_mutex_unlock(&p->lock);
  pthread_cleanup_pop(true);
  return NULL;
}

/* ---- waiting in a task: the worker does not count, and a substitute takes over ---- */

static void step_back(shunt__pool_t *p, shunt__worker_t *w) {
  leave_busy(w);
  p->computing_now -= w->cpu;
  staff(p);
}

static void step_in(shunt__pool_t *p, shunt__worker_t *w) {
  enter_busy(w);
  p->computing_now += w->cpu;
}

static int worker_sleep(shunt__strand_t *s, uint64_t deadline) {
  shunt__worker_t *w = s->owner;
  shunt__pool_t *p = w->pool;
  pthread_mutex_lock(&p->lock);
  step_back(p, w);
  /* Nobody at work, nobody on the way, and no thread to be had: the wait could be for what nobody will
   * run. */
  bool none = p->threads >= CEILING(p) || p->refused;
  bool stuck = deadline == SHUNT__NEVER && shunt__pool_ready(p) && !p->busy && !p->summoned && none;
  if (!stuck) {
    pthread_mutex_unlock(&p->lock);
    shunt__thread_sleep(s, deadline);
    pthread_mutex_lock(&p->lock);
  }
  step_in(p, w);
  pthread_mutex_unlock(&p->lock);
  return stuck ? UV_EAGAIN : 0;
}

/* Never refused: what the descriptor waits for may come from outside. */
static int worker_wait_fd(shunt__strand_t *s, int fd, int events, uint64_t deadline) {
  shunt__worker_t *w = s->owner;
  shunt__pool_t *p = w->pool;
  pthread_mutex_lock(&p->lock);
  step_back(p, w);
  pthread_mutex_unlock(&p->lock);
  int err = shunt__thread_wait_fd(s, fd, events, deadline);
  pthread_mutex_lock(&p->lock);
  step_in(p, w);
  pthread_mutex_unlock(&p->lock);
  return err;
}

static const shunt__strand_ops_t worker_ops = {worker_sleep, worker_wait_fd, shunt__thread_yield,
                                               SHUNT__HELPS, true};

/* ---- the lane ---- */

static void push(shunt_task_t *t) {
  shunt__pool_t *p = pool_of(t->rt);
  pthread_mutex_lock(&p->lock);
  append(p, t);
  staff(p);
  bool hopeless = !p->threads && !p->governor.exists && unlink_task(p, t); /* nobody will ever come */
  pthread_mutex_unlock(&p->lock);
  if (!hopeless) return;
  shunt__settle_error(t, UV_EAGAIN, "the system refuses the first thread of the pool");
  shunt__run_over(t);
}

static bool take_out(shunt_task_t *t) {
  shunt__pool_t *p = pool_of(t->rt);
  pthread_mutex_lock(&p->lock);
  bool taken = unlink_task(p, t);
  pthread_mutex_unlock(&p->lock);
  return taken;
}

static bool help(shunt_task_t *t, shunt__strand_t *s, bool joined) {
  if (s->ops->helps != SHUNT__HELPS || !shunt__stack_left() || !take_out(t)) return false;
  run_task(t, s, joined);
  return true;
}

static shunt_cancel_t end(shunt_task_t *t, int status) {
  shunt_cancel_t came_to = shunt__end_here(t, status);
  if (came_to == SHUNT_WITHDRAWN && take_out(t)) shunt__run_over(t);
  return came_to;
}

static int open_pool(shunt_t *rt) {
  shunt__pool_t *p = calloc(1, sizeof *p);
  if (!p) return UV_ENOMEM;
  pthread_condattr_t monotonic;
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_mutex_init(&p->lock, NULL);
  pthread_cond_init(&p->work, &monotonic);
  pthread_cond_init(&p->gone, &monotonic);
  pthread_cond_init(&p->governor.trouble, &monotonic);
  pthread_condattr_destroy(&monotonic);
  p->rt = rt;
  p->cores = uv_available_parallelism();
  p->blocking.end = &p->blocking.first;
  p->computing.end = &p->computing.first;
  rt->lanes[SHUNT_LANE_THREAD] = p;
  return 0;
}

/* Does every worker that is left run somebody's function? Any other is on its way out, however long a loaded
 * machine takes to let it go. */
static bool only_stuck_left(const shunt__pool_t *p) {
  for (const shunt__worker_t *w = p->workers; w; w = w->next)
    if (!w->running) return false;
  return true;
}

/* Waits for the workers to go, but not for ever. False: some function has not returned. */
static bool dismiss(shunt__pool_t *p) {
  uint64_t until = shunt__deadline(SHUNT__GRACE_MS);
  pthread_mutex_lock(&p->lock);
  p->closing = true;
  pthread_cond_broadcast(&p->work);
  pthread_cond_signal(&p->governor.trouble);
  while (p->threads && !(shunt__now() >= until && only_stuck_left(p))) {
    uint64_t look = shunt__deadline(20);
    struct timespec ts = {(time_t)(look / 1000000000u), (long)(look % 1000000000u)};
    pthread_cond_timedwait(&p->gone, &p->lock, &ts);
  }
  p->left_behind = p->threads > 0;
  for (shunt__worker_t *w = p->workers; w; w = w->next) pthread_detach(w->thread);
  bool join = p->has_last;
  pthread_t last = p->last;
  pthread_mutex_unlock(&p->lock);
  if (join) pthread_join(last, NULL);
  return !p->left_behind;
}

static bool close_pool(shunt_t *rt) {
  shunt__pool_t *p = pool_of(rt);
  bool all = dismiss(p);
  if (p->governor.exists) pthread_join(p->governor.thread, NULL);
  if (!all) return false; /* the thread left behind still has p in hand */
  pthread_mutex_destroy(&p->lock);
  pthread_cond_destroy(&p->work);
  pthread_cond_destroy(&p->gone);
  pthread_cond_destroy(&p->governor.trouble);
  free(p);
  rt->lanes[SHUNT_LANE_THREAD] = NULL;
  return true;
}

const shunt__lane_ops_t shunt__thread_lane = {
    .name = "thread", .open = open_pool, .push = push, .end = end, .help = help, .close = close_pool};
