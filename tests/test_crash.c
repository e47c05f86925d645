/* Death in the process lane: a crash fails the task that crashed and nobody else, and workers do not
 * outlive their host. */
#include "support.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* ---- dying ---- */

static void *die_of_segv(void *arg) {
  (void)arg;
  signal(SIGSEGV, SIG_DFL);
  *(volatile char *)mmap(NULL, 1, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) = 1;
  return NULL;
}

static void *die_of_abort(void *arg) {
  (void)arg;
  signal(SIGABRT, SIG_DFL);
  abort();
}

static void *die_of_kill(void *arg) {
  (void)arg;
  raise(SIGKILL);
  return NULL;
}

static void *die_of_exit(void *arg) {
  (void)arg;
  _exit(7);
}

static void *die_of_success(void *arg) {
  (void)arg;
  _exit(0);
}

static const struct {
  shunt_fn fn;
  int signal, exit_status;
} deaths[] = {
  {die_of_segv, SIGSEGV, 0},
  {die_of_abort, SIGABRT, 0},
  {die_of_kill, SIGKILL, 0},
  {die_of_exit, 0, 7},
  {die_of_success, 0, 0},
};

START_TEST(a_death_is_told_and_the_pool_goes_on) {
  shunt_info_t info;
  size_t size = 1;
  shunt_task_t *t = post(SHUNT_LANE_PROCESS, deaths[_i].fn, NULL, 0);
  assert_is(settle(t), SHUNT_ECRASHED);
  shunt_info(t, &info);
  ck_assert_int_eq(info.signal, deaths[_i].signal);
  ck_assert_int_eq(info.exit_status, deaths[_i].exit_status);
  ck_assert_int_gt(info.pid, 0);
  ck_assert_int_ne(info.pid, getpid());
  ck_assert_uint_eq(info.attempts, 1);
  ck_assert_ptr_nonnull(info.message);
  ck_assert_ptr_null(shunt_result(t, &size));
  ck_assert_uint_eq(size, 0);
  shunt_release(t);
  ck_assert_int_eq(answer(post_number(SHUNT_LANE_PROCESS, triple, 2)), 6);
}
END_TEST

/* Number 500 of a thousand tells who runs it, and stays until it is killed. */
static void *stay_if_500(void *arg) {
  int64_t n = *(int64_t *)arg;
  atomic_fetch_add(&shared->cells[n], 1);
  if (n == 500) {
    shared->cells[1000] = getpid();
    gate_push(STARTED);
    gate_wait(GO, 1);
  }
  return shunt_return(arg, sizeof n);
}

START_TEST(a_kill_fails_the_task_that_ran_and_the_other_999_finish) {
  shunt_task_t *t[1000];
  for (int i = 0; i < 1000; i++)
    t[i] = post_number(SHUNT_LANE_PROCESS, stay_if_500, i);
  assert_passes(STARTED, 1);
  kill((pid_t)shared->cells[1000], SIGKILL);
  shunt_info_t info;
  assert_is(settle(t[500]), SHUNT_ECRASHED);
  shunt_info(t[500], &info);
  ck_assert_int_eq(info.signal, SIGKILL);
  ck_assert_int_eq(info.pid, shared->cells[1000]);
  shunt_release(t[500]);
  for (int i = 0; i < 1000; i++) {
    if (i != 500)
      ck_assert_int_eq(answer(t[i]), i);
    ck_assert_int_eq(shared->cells[i], 1);
  }
}
END_TEST

static void *tell_pid_and_spin(void *arg) {
  shared->cells[0] = getpid();
  gate_push(STARTED);
  for (volatile int i = 0; i < 20000;)
    i = i + 1;
  return shunt_return(arg, sizeof(int64_t));
}

START_TEST(kills_at_any_moment_fail_at_most_one_task_each) {
  enum { TASKS = 1000, KILLS = 8 };
  shunt_task_t *t[TASKS];
  int failed = 0, wrong = 0;
  for (int i = 0; i < TASKS; i++)
    t[i] = post_number(SHUNT_LANE_PROCESS, tell_pid_and_spin, i);
  for (int i = 1; i <= KILLS; i++) {
    assert_passes(STARTED, (uint32_t)(TASKS / (KILLS + 2) * i));
    kill((pid_t)atomic_load(&shared->cells[0]), SIGKILL);
  }
  for (int i = 0; i < TASKS; i++) {
    int64_t n = -1;
    int status = settle(t[i]);
    failed += status == SHUNT_ECRASHED;
    wrong += shunt_collect(t[i], &n, sizeof n) == 0 ? n != i : status != SHUNT_ECRASHED;
  }
  ck_assert_int_le(failed, KILLS);
  ck_assert_int_eq(wrong, 0);
}
END_TEST

/* A task that kills its worker so many times before it ends well. Cells count its runs. */
struct deadly {
  int64_t cell, times;
};

static void *die_while_deadly(void *arg) {
  struct deadly *deadly = arg;
  if (atomic_fetch_add(&shared->cells[deadly->cell], 1) < deadly->times)
    _exit(1);
  return shunt_return(&deadly->cell, sizeof deadly->cell);
}

static shunt_task_t *submit_deadly(int64_t cell, int64_t times, unsigned flags) {
  struct deadly deadly = {cell, times};
  return shunt_submit(rt, die_while_deadly, &deadly,
                      SHUNT_WITH(.kind = SHUNT_CPU, .arg_size = sizeof deadly, .flags = flags));
}

START_TEST(an_idempotent_task_runs_again_up_to_three_times) {
  shunt_info_t info;
  shunt_task_t *t = submit_deadly(0, _i, SHUNT_IDEMPOTENT);
  assert_is(settle(t), _i < 3 ? 0 : SHUNT_ECRASHED);
  shunt_info(t, &info);
  ck_assert_uint_eq(info.attempts, _i < 3 ? (unsigned)_i + 1 : 3);
  ck_assert_int_eq(shared->cells[0], info.attempts);
  shunt_release(t);
}
END_TEST

START_TEST(tasks_that_run_again_do_not_fail_those_behind_them) {
  enum { TASKS = 10 };
  shunt_task_t *t[2 * TASKS];
  for (int i = 0; i < 2 * TASKS; i++)
    t[i] = submit_deadly(i, i < TASKS ? 2 : 0, SHUNT_IDEMPOTENT);
  for (int i = 0; i < 2 * TASKS; i++)
    ck_assert_int_eq(answer(t[i]), i);
}
END_TEST

START_TEST(any_other_task_runs_once) {
  assert_is(finish(submit_deadly(0, 1, 0)), SHUNT_ECRASHED);
  ck_assert_int_eq(answer(post_number(SHUNT_LANE_PROCESS, triple, 1)), 3);
  ck_assert_int_eq(shared->cells[0], 1);
}
END_TEST

enum { LARGE = 4 << 20 };

static void *die_with_large_result(void *arg) {
  memset(shunt_alloc(LARGE), *(char *)arg, LARGE);
  _exit(1);
}

START_TEST(large_bytes_of_the_dead_hurt_nobody) {
  char *large = calloc(1, LARGE);
  for (size_t i = 0; i < scaled(50); i++)
    assert_is(finish(post(SHUNT_LANE_PROCESS, die_with_large_result, large, LARGE)), SHUNT_ECRASHED);
  free(large);
  ck_assert_int_eq(answer(post_number(SHUNT_LANE_PROCESS, triple, 1)), 3);
}
END_TEST

/* ---- workers and the death of their host ---- */

static void *tell_pid_and_hold(void *arg) {
  shared->cells[*(int64_t *)arg] = getpid();
  return hold_tight(arg);
}

/* What this program is when it is told to be a host: it starts two workers, writes their pids to
 * standard output, and stays. */
static int be_host(void) {
  share();
  if (shunt_start(&rt, &(shunt_options_t){.max_processes = 2}) != 0)
    return EXIT_FAILURE;
  for (int64_t i = 0; i < 2; i++)
    shunt_release(post_number(SHUNT_LANE_PROCESS, tell_pid_and_hold, i));
  if (!gate_wait(STARTED, 2) || write(1, (void *)shared->cells, 2 * sizeof(int64_t)) < 0)
    return EXIT_FAILURE;
  for (;;)
    pause();
}

static pid_t spawn_host(int *output) {
  int ends[2];
  ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
  pid_t host = fork();
  if (host == 0) {
    dup2(ends[1], 1);
    execl("/proc/self/exe", "host", "--host", (char *)NULL);
    _exit(127);
  }
  close(ends[1]);
  *output = ends[0];
  return host;
}

START_TEST(workers_die_with_their_host) {
  int output;
  int64_t pids[2];
  struct pollfd gone[2];
  pid_t host = spawn_host(&output);
  ck_assert_int_eq(read(output, pids, sizeof pids), sizeof pids);
  for (int i = 0; i < 2; i++) {
    gone[i] = (struct pollfd){.fd = (int)syscall(SYS_pidfd_open, (pid_t)pids[i], 0), .events = POLLIN};
    ck_assert_int_ge(gone[i].fd, 0);
  }
  kill(host, SIGKILL);
  ck_assert_int_eq(waitpid(host, NULL, 0), host);
  for (int i = 0; i < 2; i++) {
    ck_assert_int_eq(poll(&gone[i], 1, (int)patience()), 1);
    close(gone[i].fd);
  }
  close(output);
}
END_TEST

int main(int argc, char **argv) {
  if (argc > 1 && strcmp(argv[1], "--host") == 0)
    return be_host();
  Suite *suite = suite_create("crash");
  TCase *dying = room(suite, "dying", start_plain);
  tcase_add_loop_test(dying, a_death_is_told_and_the_pool_goes_on, 0, sizeof deaths / sizeof *deaths);
  tcase_add_test(dying, a_kill_fails_the_task_that_ran_and_the_other_999_finish);
  tcase_add_test(dying, kills_at_any_moment_fail_at_most_one_task_each);
  tcase_add_loop_test(dying, an_idempotent_task_runs_again_up_to_three_times, 0, 5);
  tcase_add_test(dying, tasks_that_run_again_do_not_fail_those_behind_them);
  tcase_add_test(dying, any_other_task_runs_once);
  tcase_add_test(dying, large_bytes_of_the_dead_hurt_nobody);
  tcase_add_test(room(suite, "host", NULL), workers_die_with_their_host);
  return run(suite, argc, argv);
}
