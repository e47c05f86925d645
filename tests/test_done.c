/* Who wants to know that a task has settled: a callback on the loop, a foreign event loop, and whoever takes
 * tasks in order of completion. */
#include "support.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/resource.h>

/* A task that settles when GO was pushed so often as it is told, with that number. */
static void *number_in_turn(void *arg) {
  int err = gate_await(GO, (uint32_t) * (int64_t *)arg);
  return err == 0 ? shunt_return(arg, sizeof(int64_t)) : shunt_fail(err, NULL);
}

/* ---- callbacks ---- */

struct call {
  _Atomic int times;
  pthread_t on;
  shunt_task_t *of;
  int status;
};

static void note(shunt_task_t *t, void *data) {
  struct call *call = data;
  call->on = pthread_self();
  call->of = t;
  call->status = shunt_status(t);
  call->times++;
  gate_push(SEEN);
}

static void *who_am_i(void *thread) {
  *(pthread_t *)thread = pthread_self();
  return NULL;
}

static pthread_t loops_thread(void) {
  pthread_t thread;
  assert_is(finish(shunt_submit(rt, who_am_i, &thread, SHUNT_WITH(.lane = SHUNT_LANE_LOOP))), 0);
  return thread;
}

START_TEST(a_callback_comes_once_on_the_loops_thread) {
  struct call call = {0};
  start_plain();
  pthread_t loop = loops_thread();
  shunt_task_t *t = post_number(_i, number_in_turn, 1);
  assert_is(shunt_on_done(t, note, &call), 0);
  ck_assert_int_eq(call.times, 0);
  gate_push(GO);
  assert_passes(SEEN, 1);
  ck_assert_ptr_eq(call.of, t);
  assert_is(call.status, 0);
  ck_assert(pthread_equal(call.on, loop));
  shunt_release(t);
  stop();
  ck_assert_int_eq(call.times, 1);
}
END_TEST

START_TEST(a_callback_comes_for_what_has_settled_already) {
  struct call call = {0};
  pthread_t loop = loops_thread();
  shunt_task_t *t = post_number(_i, number_in_turn, 0);
  assert_is(settle(t), 0);
  assert_is(shunt_on_done(t, note, &call), 0);
  assert_passes(SEEN, 1);
  ck_assert(pthread_equal(call.on, loop));
  shunt_release(t);
}
END_TEST

START_TEST(a_callback_comes_for_what_failed_was_refused_or_is_nobodys) {
  struct call call = {0};
  shunt_task_t *cancelled = post(_i, hold, NULL, 0), *refused = shunt_submit(rt, NULL, NULL, NULL);
  assert_is(shunt_on_done(cancelled, note, &call), 0);
  shunt_cancel(cancelled);
  shunt_release(cancelled);
  assert_passes(SEEN, 1);
  assert_is(call.status, UV_ECANCELED);
  assert_is(shunt_on_done(refused, note, &call), 0);
  shunt_release(refused);
  assert_passes(SEEN, 2);
  assert_is(call.status, UV_EINVAL);
}
END_TEST

START_TEST(where_there_is_no_loop_there_is_no_callback) {
  struct call call = {0};
  shunt_task_t *nowhere = shunt_submit(NULL, hold, NULL, NULL);
  assert_is(shunt_on_done(nowhere, note, &call), SHUNT_ECLOSED);
  shunt_release(nowhere);
  ck_assert_int_eq(call.times, 0);
}
END_TEST

static void *hang_callback(void *arg) {
  static struct call call;
  shunt_task_t *t = post(SHUNT_LANE_LOOP, triple, arg, sizeof(int64_t));
  int64_t err = shunt_on_done(t, note, &call);
  shunt_release(t);
  return shunt_return(&err, sizeof err);
}

START_TEST(a_task_may_hang_a_callback_but_not_in_a_worker) {
  ck_assert_int_eq(answer(post_number(_i, hang_callback, 1)), _i == SHUNT_LANE_PROCESS ? UV_ENOTSUP : 0);
  if (_i != SHUNT_LANE_PROCESS)
    assert_passes(SEEN, 1);
}
END_TEST

/* ---- in a callback ---- */

static shunt_task_t *held;
static shunt_scope_t *scope;
static shunt_each_t *each;

static void wait_in_every_way(shunt_task_t *t, void *data) {
  int64_t n;
  int *said = data;
  *said++ = shunt_sleep(1000);
  *said++ = shunt_await(held, NULL);
  *said++ = shunt_await_for(held, 1000, NULL);
  *said++ = shunt_await_any(&held, 1, SHUNT_FOREVER);
  *said++ = shunt_await_all(&held, 1, SHUNT_FOREVER);
  *said++ = shunt_join(held, NULL);
  *said++ = shunt_collect(held, &n, sizeof n);
  *said++ = shunt_each_next(each, SHUNT_FOREVER);
  *said++ = shunt_scope_close(scope);
  *said++ = shunt_stop(rt, 0);
  *said++ = shunt_suspend(SHUNT_FOREVER); /* not for callbacks at all */
  *said++ = shunt_await(t, NULL);         /* has settled: nothing to wait for */
  gate_push(SEEN);
}

START_TEST(a_callback_cannot_wait) {
  enum { WAYS = 12 };
  int said[WAYS];
  shunt_task_t *t = post_number(_i, triple, 1);
  scope = shunt_scope_open(rt, NULL);
  held = shunt_submit(rt, hold, NULL, SHUNT_WITH(.lane = _i, .flags = SHUNT_BY_VALUE, .scope = scope));
  assert_is(shunt_each(&each, &held, 1), 0);
  assert_is(shunt_on_done(t, wait_in_every_way, said), 0);
  assert_passes(SEEN, 1);
  for (int i = 0; i < WAYS - 2; i++)
    ck_assert_msg(said[i] == SHUNT_EDEADLK, "the wait number %d said %s", i, status_word(said[i]));
  assert_is(said[WAYS - 2], UV_EINVAL);
  assert_is(said[WAYS - 1], 0);
  gate_push(GO);
  ck_assert_int_eq(shunt_each_next(each, patience()), 0);
  shunt_each_end(each);
  assert_is(shunt_scope_close(scope), 0);
  assert_is(finish(held), 0);
  assert_is(finish(t), 0);
}
END_TEST

static void submit_and_hang_more(shunt_task_t *t, void *data) {
  shunt_task_t *more = post_number(SHUNT_LANE_THREAD, triple, 2);
  if (shunt_on_done(t, note, data) == 0 && shunt_on_done(more, note, data) == 0)
    gate_push(READY);
  shunt_release(more);
}

START_TEST(a_callback_may_submit_and_hang_more) {
  struct call call = {0};
  shunt_task_t *t = post_number(_i, triple, 1);
  assert_is(shunt_on_done(t, submit_and_hang_more, &call), 0);
  assert_is(finish(t), 0);
  assert_passes(READY, 1);
  assert_passes(SEEN, 2);
  ck_assert_int_eq(call.times, 2);
}
END_TEST

START_TEST(stop_waits_for_callbacks) {
  struct call call = {0}, never = {0};
  start_plain();
  shunt_task_t *t = post_number(_i, triple, 1), *stuck = post(_i, hold, NULL, 0);
  assert_is(shunt_on_done(t, note, &call), 0);
  assert_is(shunt_on_done(stuck, note, &never), 0);
  assert_is(shunt_stop(rt, 0), 0);
  ck_assert_int_eq(call.times, 1);
  ck_assert_int_eq(never.times, 1);
  assert_is(never.status, UV_ECANCELED);
  assert_is(shunt_on_done(t, note, &call), SHUNT_ECLOSED);
  ck_assert_int_eq(call.times, 1);
  shunt_release(t);
  shunt_release(stuck);
}
END_TEST

/* ---- many callbacks ---- */

static void count(shunt_task_t *t, void *cell) {
  atomic_fetch_add(&shared->cells[(intptr_t)cell], shunt_done(t) ? 1 : 1000);
  gate_push(SEEN);
}

START_TEST(ten_thousand_tasks_have_a_callback_each) {
  uint32_t n = (uint32_t)scaled(10000), right = 0;
  for (uint32_t i = 0; i < n; i++) {
    shunt_task_t *t = post_number((shunt_lane_t)(1 + i % 3), triple, i);
    assert_is(shunt_on_done(t, count, (void *)(intptr_t)i), 0);
    shunt_release(t);
  }
  assert_passes(SEEN, n);
  for (uint32_t i = 0; i < n; i++)
    right += shared->cells[i] == 1;
  ck_assert_uint_eq(right, n);
}
END_TEST

static void *hang_many(void *t) {
  for (int i = 0, n = (int)scaled(1000); i < n; i++)
    if (shunt_on_done(t, count, NULL) != 0)
      return NULL;
  return t;
}

START_TEST(one_task_has_callbacks_from_many_threads) {
  enum { THREADS = 4 };
  pthread_t thread[THREADS];
  shunt_task_t *t = post_number(_i, number_in_turn, 1);
  for (int i = 0; i < THREADS; i++)
    ck_assert_int_eq(pthread_create(&thread[i], NULL, hang_many, t), 0);
  gate_push(GO); /* some come before it settles, some after */
  for (int i = 0; i < THREADS; i++) {
    void *done;
    pthread_join(thread[i], &done);
    ck_assert_ptr_eq(done, t);
  }
  assert_passes(SEEN, THREADS * scaled(1000));
  ck_assert_int_eq(shared->cells[0], (int64_t)(THREADS * scaled(1000)));
  shunt_release(t);
}
END_TEST

/* ---- descriptors ---- */

static bool readable(int fd, uint64_t ms) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  return poll(&p, 1, (int)ms) == 1 && p.revents == POLLIN;
}

START_TEST(a_descriptor_is_readable_once_the_task_has_settled) {
  shunt_task_t *t = post_number(_i, number_in_turn, 1);
  int fd = shunt_task_fd(t);
  ck_assert_int_ge(fd, 0);
  ck_assert(!readable(fd, 20));
  ck_assert(!shunt_done(t));
  gate_push(GO);
  ck_assert(readable(fd, patience()));
  ck_assert(shunt_done(t));
  ck_assert(readable(fd, 0));
  ck_assert_int_eq(shunt_task_fd(t), fd);
  ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
  assert_is(finish(t), 0);
}
END_TEST

START_TEST(a_descriptor_of_what_has_settled_is_readable_at_once) {
  shunt_task_t *t[] = {post_number(_i, triple, 1), shunt_submit(rt, NULL, NULL, NULL),
                       shunt_submit(NULL, hold, NULL, NULL)};
  assert_is(settle(t[0]), 0);
  for (int i = 0; i < 3; i++) {
    ck_assert(readable(shunt_task_fd(t[i]), 0));
    shunt_release(t[i]);
  }
}
END_TEST

START_TEST(a_descriptor_is_closed_with_its_handle) {
  start_plain();
  shunt_task_t *t = post_number(_i, triple, 1);
  int fd = shunt_task_fd(t);
  assert_is(settle(t), 0);
  stop(); /* so that the library has no reference to it */
  ck_assert(readable(fd, 0));
  ck_assert_int_eq(shunt_task_fd(t), fd);
  shunt_release(t);
  ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
}
END_TEST

static int open_descriptors(void) {
  int n = 0;
  DIR *dir = opendir("/proc/self/fd");
  while (readdir(dir) != NULL)
    n++;
  closedir(dir);
  return n;
}

static pthread_barrier_t together;

static void *ask_for_fd(void *t) {
  pthread_barrier_wait(&together);
  return (void *)(intptr_t)shunt_task_fd(t);
}

START_TEST(two_threads_ask_at_once_and_get_the_same) {
  int differ = 0;
  start_plain();
  stop();
  int before = open_descriptors(); /* the first start of a program leaves some behind */
  pthread_barrier_init(&together, NULL, 2);
  start_plain();
  for (int i = 0, n = (int)scaled(500); i < n; i++) {
    void *theirs;
    pthread_t thread;
    shunt_task_t *t = post_number(SHUNT_LANE_THREAD, triple, i);
    ck_assert_int_eq(pthread_create(&thread, NULL, ask_for_fd, t), 0);
    pthread_barrier_wait(&together);
    int ours = shunt_task_fd(t);
    pthread_join(thread, &theirs);
    differ += ours < 0 || ours != (int)(intptr_t)theirs || !readable(ours, patience());
    shunt_release(t);
  }
  stop();
  pthread_barrier_destroy(&together);
  ck_assert_int_eq(differ, 0);
  ck_assert_int_eq(open_descriptors(), before);
}
END_TEST

START_TEST(a_foreign_loop_awaits_tasks_of_all_lanes) {
  enum { TASKS = 60 };
  shunt_task_t *t[TASKS];
  struct epoll_event event;
  int poller = epoll_create1(EPOLL_CLOEXEC);
  for (int i = 0; i < TASKS; i++) {
    t[i] = post_number((shunt_lane_t)(1 + i % 3), number_in_turn, 1 + i / 3);
    event = (struct epoll_event){.events = EPOLLIN | EPOLLONESHOT, .data.u32 = (uint32_t)i};
    ck_assert_int_eq(epoll_ctl(poller, EPOLL_CTL_ADD, shunt_task_fd(t[i]), &event), 0);
  }
  for (int round = 0; round < TASKS / 3; round++) {
    ck_assert_int_eq(epoll_wait(poller, &event, 1, 0), 0);
    gate_push(GO);
    for (int i = 0; i < 3; i++) {
      ck_assert_int_eq(epoll_wait(poller, &event, 1, (int)patience()), 1);
      uint32_t which = event.data.u32;
      ck_assert_uint_eq(which / 3, (unsigned)round);
      ck_assert_int_eq(answer(t[which]), round + 1);
    }
  }
  close(poller);
}
END_TEST

START_TEST(no_more_descriptors_is_an_error_and_no_end) {
  struct rlimit none, old;
  shunt_task_t *t = post_number(_i, number_in_turn, 1);
  ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
  none = (struct rlimit){.rlim_cur = 3, .rlim_max = old.rlim_max};
  ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
  int err = shunt_task_fd(t);
  ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
  assert_is(err, UV_EMFILE);
  int fd = shunt_task_fd(t);
  ck_assert_int_ge(fd, 0);
  gate_push(GO);
  ck_assert(readable(fd, patience()));
  assert_is(finish(t), 0);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("done");
  TCase *alone = room(suite, "own runtime", NULL);
  every_lane(alone, a_callback_comes_once_on_the_loops_thread);
  every_lane(alone, stop_waits_for_callbacks);
  every_lane(alone, a_descriptor_is_closed_with_its_handle);
  tcase_add_test(alone, two_threads_ask_at_once_and_get_the_same);
  TCase *callbacks = room(suite, "callbacks", start_plain);
  every_lane(callbacks, a_callback_comes_for_what_has_settled_already);
  every_lane(callbacks, a_callback_comes_for_what_failed_was_refused_or_is_nobodys);
  tcase_add_test(callbacks, where_there_is_no_loop_there_is_no_callback);
  every_lane(callbacks, a_task_may_hang_a_callback_but_not_in_a_worker);
  every_lane(callbacks, a_callback_cannot_wait);
  every_lane(callbacks, a_callback_may_submit_and_hang_more);
  tcase_add_test(callbacks, ten_thousand_tasks_have_a_callback_each);
  every_lane(callbacks, one_task_has_callbacks_from_many_threads);
  TCase *descriptors = room(suite, "descriptors", start_plain);
  every_lane(descriptors, a_descriptor_is_readable_once_the_task_has_settled);
  every_lane(descriptors, a_descriptor_of_what_has_settled_is_readable_at_once);
  tcase_add_test(descriptors, a_foreign_loop_awaits_tasks_of_all_lanes);
  every_lane(descriptors, no_more_descriptors_is_an_error_and_no_end);
  return run(suite, argc, argv);
}
