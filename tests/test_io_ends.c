/* How waits for descriptors end before their time, on every lane: by a cancel, by a deadline, by stop. And
 * many of them at once on the loop. What the calls do otherwise is test_io.c's. */
#include "support.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <shunt/io.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>

/* ---- waits without end ---- */

/* One name server that never answers, until GO. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **list) {
  typedef int lookup_t(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  lookup_t *real = (lookup_t *)dlsym(RTLD_NEXT, "getaddrinfo");
  if (strcmp(node, "slow.test") != 0)
    return real(node, service, hints, list);
  gate_push(READY);
  gate_wait(GO, 1);
  return real("127.0.0.1", service, hints, list);
}

static char bytes[1 << 20]; /* more than any pipe or socket here holds */

static int make_pipe(int ends[2]) { return pipe2(ends, O_CLOEXEC); }
static int make_pair(int ends[2]) { return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends); }

static int wait_for_pipe(void) {
  int ends[2];
  make_pipe(ends);
  int err = shunt_wait_fd(ends[0], POLLIN, SHUNT_FOREVER);
  close(ends[0]);
  close(ends[1]);
  return err;
}

static int read_from(int make(int ends[2])) {
  int ends[2];
  char c;
  make(ends);
  ssize_t n = shunt_read(ends[0], &c, 1);
  close(ends[0]);
  close(ends[1]);
  return (int)n;
}

static int write_to(int make(int ends[2])) {
  int ends[2], err;
  make(ends);
  while ((err = (int)shunt_write(ends[1], bytes, sizeof bytes)) > 0)
    continue;
  close(ends[0]);
  close(ends[1]);
  return err;
}

static int read_pipe(void) { return read_from(make_pipe); }
static int read_socket(void) { return read_from(make_pair); }
static int write_pipe(void) { return write_to(make_pipe); }
static int write_socket(void) { return write_to(make_pair); }

static int write_all(void) {
  int ends[2];
  make_pair(ends);
  int err = shunt_write_all(ends[1], bytes, sizeof bytes);
  close(ends[0]);
  close(ends[1]);
  return err;
}

static int listen_on_loopback(struct sockaddr_in *address, int backlog) {
  socklen_t size = sizeof *address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(fd, (struct sockaddr *)address, size) != 0 || listen(fd, backlog) != 0)
    abort();
  getsockname(fd, (struct sockaddr *)address, &size);
  return fd;
}

static int accept_one(void) {
  struct sockaddr_in address;
  int fd = listen_on_loopback(&address, 8), err = shunt_accept(fd, NULL, NULL);
  close(fd);
  return err;
}

/* Nobody accepts, and the queue is full with the first few. */
static int connect_one(void) {
  enum { FEW = 4 };
  struct sockaddr_in address;
  int listener = listen_on_loopback(&address, 0), fd[FEW + 1];
  for (int i = 0; i < FEW; i++) {
    fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    (void)!connect(fd[i], (struct sockaddr *)&address, sizeof address);
  }
  fd[FEW] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int err = shunt_connect(fd[FEW], (struct sockaddr *)&address, sizeof address);
  for (int i = 0; i <= FEW; i++)
    close(fd[i]);
  close(listener);
  return err;
}

static int wait_for_child(void) {
  pid_t pid = 0;
  int err = shunt_spawn(&pid, "sleep", (char *[]){"sleep", "1000", NULL}, NULL, NULL);
  if (err == 0) {
    err = shunt_wait_process(pid, NULL);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
  }
  return err;
}

static int look_up(void) {
  struct addrinfo *list = NULL;
  int err = shunt_getaddrinfo(&list, "slow.test", "80", NULL);
  if (list != NULL)
    freeaddrinfo(list);
  return err;
}

typedef int wait_t(void);
static wait_t *const waits[] = {wait_for_pipe, read_pipe,  read_socket, write_pipe,     write_socket,
                                write_all,     accept_one, connect_one, wait_for_child, look_up};
enum { WAITS = sizeof waits / sizeof *waits, LOOK_UP = WAITS - 1, LANES = SHUNT_LANE_PROCESS };

/* Once told, it is told again by whatever it calls. */
static void *wait_in_vain(void *arg) {
  int64_t which = *(int64_t *)arg;
  gate_push(STARTED);
  int err = waits[which]();
  shared->cells[0] = err;
  shared->cells[1] = waits[which]();
  gate_push(ENDED);
  return err < 0 ? shunt_fail(err, "wait %d", (int)which) : NULL;
}

static void all_waits(TCase *room, const TTest *test) { tcase_add_loop_test(room, test, 0, WAITS * LANES); }

#define WHICH (_i / LANES)
#define LANE ((shunt_lane_t)(_i % LANES + 1))
/* Elsewhere than on the loop a look-up is the plain call, which nobody can interrupt. */
#define NOT_TO_BE_INTERRUPTED (WHICH == LOOK_UP && LANE == SHUNT_LANE_THREAD)

/* ---- cancel ---- */

START_TEST(a_cancel_ends_every_wait) {
  shunt_task_t *t = post_number(LANE, wait_in_vain, WHICH);
  assert_passes(STARTED, 1);
  assert_is((int)shunt_cancel(t), LANE == SHUNT_LANE_PROCESS ? SHUNT_KILLED : SHUNT_REQUESTED);
  if (NOT_TO_BE_INTERRUPTED)
    gate_push(GO);
  assert_is(settle(t), UV_ECANCELED);
  if (LANE != SHUNT_LANE_PROCESS) {
    assert_passes(ENDED, 1);
    if (!NOT_TO_BE_INTERRUPTED)
      assert_is((int)shared->cells[0], UV_ECANCELED);
    assert_is((int)shared->cells[1], UV_ECANCELED);
  }
  shunt_release(t);
  gate_push(GO);
}
END_TEST

START_TEST(a_deadline_ends_every_wait) {
  int64_t which = WHICH;
  shunt_task_options_t options = {.lane = LANE, .arg_size = sizeof which, .timeout_ms = 300 * slowness()};
  shunt_task_t *t = shunt_submit(rt, wait_in_vain, &which, &options);
  assert_is(settle(t), UV_ETIMEDOUT);
  if (LANE != SHUNT_LANE_PROCESS && !NOT_TO_BE_INTERRUPTED) {
    assert_passes(ENDED, 1);
    assert_is((int)shared->cells[0], UV_ETIMEDOUT);
    assert_is((int)shared->cells[1], UV_ETIMEDOUT);
  }
  shunt_release(t);
  gate_push(GO);
}
END_TEST

START_TEST(stop_ends_every_wait) {
  start_plain();
  shunt_task_t *t = post_number(LANE, wait_in_vain, WHICH);
  assert_passes(STARTED, 1);
  if (WHICH == LOOK_UP && LANE != SHUNT_LANE_PROCESS)
    gate_push(GO); /* a thread that looks up would be left behind */
  int err = shunt_stop(rt, 0); /* where the machine is busy with others, its 100 ms may be too little */
  ck_assert(err == 0 || err == SHUNT_EABANDONED);
  ck_assert(shunt_done(t));
  shunt_release(t);
}
END_TEST

/* What a cancelled fiber leaves to the thread is freed by that; a leak checker sees to it. */
START_TEST(a_look_up_that_nobody_waits_for_ends_by_itself) {
  shunt_task_t *t = post_number(SHUNT_LANE_LOOP, wait_in_vain, LOOK_UP);
  assert_passes(READY, 1);
  shunt_cancel(t);
  assert_is(finish(t), UV_ECANCELED);
  gate_push(GO);
}
END_TEST

/* ---- a cancel, and what was waited for, at once ---- */

static void *read_byte(void *arg) {
  char c;
  gate_push(STARTED);
  ssize_t n = shunt_read((int)(intptr_t)arg, &c, 1);
  if (n < 0) shunt_fail((int)n, NULL);
  return arg;
}

START_TEST(a_wake_and_an_event_may_come_together) {
  int ends[2];
  make_pipe(ends);
  for (size_t i = 0; i < scaled(2000); i++) {
    char c;
    uint32_t started = atomic_load(&shared->gates[STARTED]);
    shunt_task_t *t = shunt_submit(rt, read_byte, (void *)(intptr_t)ends[0], SHUNT_WITH(.lane = _i));
    if (i % 2) assert_passes(STARTED, started + 1);
    ck_assert_int_eq(write(ends[1], "x", 1), 1);
    shunt_cancel(t);
    int status = finish(t);
    ck_assert(status == 0 || status == UV_ECANCELED);
    if (poll(&(struct pollfd){ends[0], POLLIN, 0}, 1, 0) == 1) ck_assert_int_eq(read(ends[0], &c, 1), 1);
  }
  close(ends[0]);
  close(ends[1]);
}
END_TEST

static void *accept_shared(void *arg) {
  gate_push(STARTED);
  int fd = shunt_accept((int)(intptr_t)arg, NULL, NULL);
  if (fd < 0) return shunt_fail(fd, NULL);
  close(fd);
  gate_push(SEEN);
  return NULL;
}

START_TEST(those_who_accept_from_one_socket_take_what_comes_and_can_be_cancelled) {
  enum { MANY = 8, COME = 3 };
  struct sockaddr_in address;
  shunt_task_t *t[MANY];
  int listener = listen_on_loopback(&address, MANY), fd[COME], accepted = 0;
  for (int i = 0; i < MANY; i++)
    t[i] = shunt_submit(rt, accept_shared, (void *)(intptr_t)listener, SHUNT_WITH(.lane = _i));
  assert_passes(STARTED, MANY);
  for (int i = 0; i < COME; i++) {
    fd[i] = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert_int_eq(connect(fd[i], (struct sockaddr *)&address, sizeof address), 0);
  }
  assert_passes(SEEN, COME);
  for (int i = 0; i < MANY; i++)
    shunt_cancel(t[i]);
  for (int i = 0; i < MANY; i++)
    accepted += finish(t[i]) == 0;
  ck_assert_int_eq(accepted, COME);
  for (int i = 0; i < COME; i++)
    close(fd[i]);
  close(listener);
}
END_TEST

/* ---- the loop ---- */

static void *fill(void *arg) {
  gate_push(STARTED);
  int err = shunt_write_all((int)(intptr_t)arg, bytes, sizeof bytes);
  return err ? shunt_fail(err, NULL) : arg;
}

static shunt_task_t *on_loop(shunt_fn fn, int fd) {
  return shunt_submit(rt, fn, (void *)(intptr_t)fd, SHUNT_WITH(.lane = SHUNT_LANE_LOOP));
}

/* The queue of the loop is served in order: when a later task has run, the earlier ones wait. */
static void *nothing(void *arg) { return arg; }
static void let_them_wait(void) { assert_is(finish(on_loop(nothing, 0)), 0); }

START_TEST(a_reader_and_a_writer_share_a_descriptor) {
  int ends[2];
  char c;
  make_pair(ends);
  shunt_task_t *reader = on_loop(read_byte, ends[0]), *writer = on_loop(fill, ends[0]);
  assert_passes(STARTED, 2);
  let_them_wait();
  ck_assert(!shunt_done(reader) && !shunt_done(writer));
  ck_assert_int_eq(write(ends[1], "x", 1), 1);
  assert_is(finish(reader), 0);
  ck_assert(!shunt_done(writer));
  for (size_t n = 0; n < sizeof bytes;)
    n += (size_t)read(ends[1], bytes, sizeof bytes);
  assert_is(finish(writer), 0);
  ck_assert_int_eq(recv(ends[1], &c, 1, MSG_DONTWAIT), -1);
  close(ends[0]);
  close(ends[1]);
}
END_TEST

START_TEST(of_two_readers_each_byte_has_one) {
  int ends[2];
  make_pipe(ends);
  shunt_task_t *a = on_loop(read_byte, ends[0]), *b = on_loop(read_byte, ends[0]);
  let_them_wait();
  ck_assert_int_eq(write(ends[1], "x", 1), 1);
  int first = shunt_await_any((shunt_task_t *[]){a, b}, 2, patience());
  ck_assert_int_ge(first, 0);
  let_them_wait();
  ck_assert(!shunt_done(first ? a : b));
  ck_assert_int_eq(write(ends[1], "x", 1), 1);
  assert_is(finish(a), 0);
  assert_is(finish(b), 0);
  close(ends[0]);
  close(ends[1]);
}
END_TEST

/* Sends n to its peer, which adds one and sends it back. */
static void *ask(void *arg) {
  int fd = (int)(intptr_t)arg, n = fd, back = 0;
  gate_push(STARTED);
  if (gate_await(GO, 1) || shunt_write_all(fd, &n, sizeof n)) return NULL;
  return shunt_read(fd, &back, sizeof back) == sizeof back && back == n + 1 ? arg : NULL;
}

static void *tell(void *arg) {
  int fd = (int)(intptr_t)arg, n;
  gate_push(STARTED);
  if (shunt_read(fd, &n, sizeof n) != sizeof n) return NULL;
  n++;
  return shunt_write_all(fd, &n, sizeof n) ? NULL : arg;
}

START_TEST(thousands_wait_for_as_many_descriptors) {
  size_t pairs = scaled(1000);
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  shunt_task_t **t = calloc(2 * pairs, sizeof *t);
  int (*ends)[2] = calloc(pairs, sizeof *ends);
  for (size_t i = 0; i < pairs; i++) {
    ck_assert_int_eq(make_pair(ends[i]), 0);
    t[2 * i] = on_loop(tell, ends[i][0]);
    t[2 * i + 1] = on_loop(ask, ends[i][1]);
  }
  assert_passes(STARTED, (uint32_t)(2 * pairs));
  gate_push(GO);
  for (size_t i = 0; i < 2 * pairs; i++) {
    void *result = NULL;
    assert_is(settle(t[i]), 0);
    assert_is(shunt_join(t[i], &result), 0);
    ck_assert_ptr_nonnull(result);
  }
  for (size_t i = 0; i < pairs; i++)
    close(ends[i][0]), close(ends[i][1]);
  free(ends);
  free(t);
}
END_TEST

static void *never_without_data(void *arg) {
  int fd = (int)(intptr_t)arg;
  char c;
  gate_push(STARTED);
  while (shunt_read(fd, &c, 1) == 1)
    continue;
  return arg;
}

START_TEST(data_without_end_leaves_the_loop_to_others) {
  int zero = open("/dev/zero", O_RDONLY);
  shunt_task_t *t = on_loop(never_without_data, zero);
  assert_passes(STARTED, 1);
  let_them_wait();
  shunt_cancel(t);
  assert_is(finish(t), UV_ECANCELED);
  close(zero);
}
END_TEST

/* What calls said in a libuv callback, outside any task. */
static struct {
  uv_timer_t timer;
  int ends[2], wait, look, read, write, blocking;
} callback;

static void on_timer(uv_timer_t *timer) {
  char c = 'x';
  callback.wait = shunt_wait_fd(callback.ends[0], POLLIN, SHUNT_FOREVER);
  callback.look = shunt_wait_fd(callback.ends[0], POLLIN, 0);
  callback.read = (int)shunt_read(callback.ends[0], &c, 1);
  callback.write = (int)shunt_write(callback.ends[1], &c, 1);
  callback.blocking = shunt_blocking(nothing, NULL, NULL);
  uv_close((uv_handle_t *)timer, NULL);
  gate_push(SEEN);
}

static void *start_timer(void *arg) {
  uv_timer_init(shunt_uv_loop(rt), &callback.timer);
  uv_timer_start(&callback.timer, on_timer, 1, 0);
  return arg;
}

START_TEST(a_callback_never_waits) {
  make_pipe(callback.ends);
  assert_is(finish(on_loop(start_timer, 0)), 0);
  assert_passes(SEEN, 1);
  assert_is(callback.wait, SHUNT_EDEADLK);
  assert_is(callback.look, UV_ETIMEDOUT);
  assert_is(callback.read, SHUNT_EDEADLK);
  ck_assert_int_eq(callback.write, 1);
  assert_is(callback.blocking, SHUNT_EDEADLK);
  close(callback.ends[0]);
  close(callback.ends[1]);
}
END_TEST

/* ---- what stays behind ---- */

static int open_descriptors(void) {
  int n = 0;
  for (int fd = 0; fd < 1024; fd++)
    n += fcntl(fd, F_GETFD) >= 0;
  return n;
}

START_TEST(a_runtime_that_stops_leaves_no_descriptor_open) {
  start_plain();
  stop(); /* the channel to the process that forks the workers stays */
  int before = open_descriptors();
  start_plain();
  for (int lane = SHUNT_LANE_LOOP; lane <= SHUNT_LANE_PROCESS; lane++) {
    uint32_t started = atomic_load(&shared->gates[STARTED]);
    shunt_task_t *t = post_number((shunt_lane_t)lane, wait_in_vain, 0);
    assert_passes(STARTED, started + 1);
    shunt_cancel(t);
    assert_is(finish(t), UV_ECANCELED);
  }
  stop();
  ck_assert_int_eq(open_descriptors(), before);
}
END_TEST

static void *read_after_door_is_shut(void *arg) {
  char c;
  gate_push(STARTED);
  if (gate_await(GO, 1)) return NULL;
  for (shunt_task_t *t; ; shunt_release(t)) { /* until no new work is taken */
    t = shunt_submit(rt, nothing, NULL, SHUNT_WITH(.lane = SHUNT_LANE_LOOP));
    if (shunt_await(t, NULL) == SHUNT_ECLOSED) {
      shunt_release(t);
      break;
    }
  }
  if (shunt_blocking(nothing, arg, NULL) != 0) return NULL;
  return shunt_pread((int)(intptr_t)arg, &c, 1, 0) == 1 ? arg : NULL;
}

START_TEST(files_can_be_read_while_the_runtime_stops) {
  void *result = NULL;
  start_plain();
  int file = open("/proc/self/exe", O_RDONLY);
  shunt_task_t *t = on_loop(read_after_door_is_shut, file);
  assert_passes(STARTED, 1);
  gate_push(GO);
  stop();
  assert_is(shunt_join(t, &result), 0);
  ck_assert_ptr_nonnull(result);
  close(file);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("io_ends");
  TCase *cancel = room(suite, "cancel", start_plain);
  all_waits(cancel, a_cancel_ends_every_wait);
  tcase_add_test(cancel, a_look_up_that_nobody_waits_for_ends_by_itself);
  home_lanes(cancel, a_wake_and_an_event_may_come_together);
  home_lanes(cancel, those_who_accept_from_one_socket_take_what_comes_and_can_be_cancelled);
  all_waits(room(suite, "deadline", start_plain), a_deadline_ends_every_wait);
  all_waits(room(suite, "stop", NULL), stop_ends_every_wait);
  TCase *loop = room(suite, "loop", start_plain);
  tcase_add_test(loop, a_reader_and_a_writer_share_a_descriptor);
  tcase_add_test(loop, of_two_readers_each_byte_has_one);
  tcase_add_test(loop, thousands_wait_for_as_many_descriptors);
  tcase_add_test(loop, data_without_end_leaves_the_loop_to_others);
  tcase_add_test(loop, a_callback_never_waits);
  TCase *behind = room(suite, "what stays behind", NULL);
  tcase_add_test(behind, a_runtime_that_stops_leaves_no_descriptor_open);
  tcase_add_test(behind, files_can_be_read_while_the_runtime_stops);
  return run(suite, argc, argv);
}
