/* Descriptors, files, names and child programs: what each call does, in one body that runs on every lane and
 * outside tasks. How waits end before their time is test_io_ends.c's.
 *
 * A body makes its own descriptors, as those of others do not travel, and its own other side: a plain thread,
 * which makes no calls of ours. It returns the line on which something was not as it should be. */
#include "support.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <shunt/io.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

typedef int body_t(void);

static int failed(int line, int64_t is) {
  atomic_store(&shared->cells[0], is);
  return line;
}

#define want(expression, wanted)                                                                             \
  do {                                                                                                       \
    int64_t is_ = (int64_t)(expression);                                                                     \
    if (is_ != (int64_t)(wanted)) return failed(__LINE__, is_);                                              \
  } while (0)
#define want_that(condition) want(!(condition), 0)

static void *run_body(void *arg) {
  int64_t line = (*(body_t **)arg)();
  return shunt_return(&line, sizeof line);
}

/* SHUNT_LANE_ANY: outside tasks. */
static void run_on(int lane, body_t *body) {
  bool outside = lane == SHUNT_LANE_ANY;
  int64_t line = outside ? body() : answer(post((shunt_lane_t)lane, run_body, &body, sizeof body));
  int is = (int)shared->cells[0];
  ck_assert_msg(line == 0, "line %d: it was %d (%s)", (int)line, is, status_word(is));
}

/* A test whose body runs everywhere; _i is where. */
#define EVERYWHERE(name)                                                                                     \
  static int name##_body(void);                                                                              \
  START_TEST(name) { run_on(_i, name##_body); }                                                              \
  END_TEST                                                                                                   \
  static int name##_body(void)

/* ---- the other side ---- */

struct other {
  int in, out; /* what it reads from, and writes back to; both are its own, and closed at the end */
  pthread_t thread;
};

static void *echo(void *arg) {
  struct other *o = arg;
  char buf[1000];
  for (ssize_t n; (n = read(o->in, buf, sizeof buf)) > 0;)
    for (ssize_t done = 0, more; done < n; done += more)
      if ((more = write(o->out, buf + done, (size_t)(n - done))) < 0) abort();
  close(o->in);
  if (o->out != o->in) close(o->out);
  return NULL;
}

static void begin_echo(struct other *o, int in, int out) {
  o->in = in;
  o->out = out;
  if (pthread_create(&o->thread, NULL, echo, o) != 0) abort();
}

static void end_echo(struct other *o) { pthread_join(o->thread, NULL); }

/* ---- streams ---- */

static int converse(int in, int out) {
  for (int i = 0; i < 100; i++) {
    char word[8] = "", back[8] = "";
    int n = snprintf(word, sizeof word, "%d", i);
    want(shunt_write(out, word, (size_t)n), n);
    for (ssize_t got = 0, more; got < n; got += more)
      want_that((more = shunt_read(in, back + got, sizeof back - (size_t)got)) > 0);
    want(strcmp(word, back), 0);
  }
  return 0;
}

EVERYWHERE(pipes_carry_bytes_to_and_fro) {
  struct other other;
  int to[2], fro[2];
  want(pipe(to), 0);
  want(pipe(fro), 0);
  begin_echo(&other, to[0], fro[1]);
  int line = converse(fro[0], to[1]);
  close(to[1]);
  char end;
  if (!line) want(shunt_read(fro[0], &end, 1), 0);
  end_echo(&other);
  close(fro[0]);
  return line;
}

static int over_socketpair(int flags) {
  struct other other;
  int ends[2];
  want(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  want(fcntl(ends[0], F_SETFL, flags), 0);
  begin_echo(&other, ends[1], ends[1]);
  int line = converse(ends[0], ends[0]);
  shutdown(ends[0], SHUT_WR);
  char end;
  if (!line) want(shunt_read(ends[0], &end, 1), 0);
  end_echo(&other);
  close(ends[0]);
  return line;
}

EVERYWHERE(sockets_carry_bytes_to_and_fro) { return over_socketpair(0); }

/* Terminals have no way to read without waiting, so here the plain call is made when they are ready. */
EVERYWHERE(terminals_are_read_when_they_are_ready) {
  char line[8] = "";
  int master = posix_openpt(O_RDWR | O_NOCTTY);
  want(grantpt(master) | unlockpt(master), 0);
  int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
  want(shunt_wait_fd(slave, POLLIN, 0), UV_ETIMEDOUT);
  want(shunt_write_all(master, "hello\n", 6), 0);
  want(shunt_read(slave, line, sizeof line), 6);
  want(shunt_write(slave, "x", 1), 1);
  close(slave);
  close(master);
  return 0;
}

EVERYWHERE(more_than_a_pipe_holds_is_written_in_parts) {
  enum { MUCH = 1 << 20 };
  struct other other;
  int to[2], null = open("/dev/null", O_WRONLY);
  char *bytes = calloc(1, MUCH);
  want(pipe(to), 0);
  ssize_t first = shunt_write(to[1], bytes, MUCH);
  want_that(first > 0 && first < MUCH);
  begin_echo(&other, to[0], null);
  want(shunt_write_all(to[1], bytes, MUCH), 0);
  close(to[1]);
  end_echo(&other);
  free(bytes);
  return 0;
}

EVERYWHERE(reading_nothing_never_waits) {
  int to[2], ends[2];
  char c;
  want(pipe(to), 0);
  want(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  want(shunt_read(to[0], &c, 0), 0);
  want(shunt_read(ends[0], &c, 0), 0);
  want(shunt_write_all(to[1], &c, 0), 0);
  for (int i = 0; i < 2; i++) close(to[i]), close(ends[i]);
  return 0;
}

/* With SIGPIPE as it is by default, which ends a process. */
EVERYWHERE(a_broken_pipe_is_an_error_and_no_signal) {
  int to[2], ends[2];
  signal(SIGPIPE, SIG_DFL);
  want(pipe(to), 0);
  want(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  close(to[0]);
  close(ends[0]);
  want(shunt_write(to[1], "x", 1), UV_EPIPE);
  want(shunt_write_all(ends[1], "x", 1), UV_EPIPE);
  sigset_t pending;
  sigpending(&pending);
  want_that(shunt_self() || !sigismember(&pending, SIGPIPE));
  close(to[1]);
  close(ends[1]);
  return 0;
}

EVERYWHERE(flags_stay_as_they_were) {
  for (int nonblock = 0; nonblock <= O_NONBLOCK; nonblock += O_NONBLOCK) {
    int ends[2];
    char c;
    want(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    want(fcntl(ends[0], F_SETFL, nonblock), 0);
    int before = fcntl(ends[0], F_GETFL);
    want(shunt_write(ends[1], "x", 1), 1);
    want(shunt_read(ends[0], &c, 1), 1);
    want(shunt_wait_fd(ends[0], POLLIN, 5), UV_ETIMEDOUT);
    want(shunt_write(ends[0], "x", 1), 1);
    want(fcntl(ends[0], F_GETFL), before);
    close(ends[0]);
    close(ends[1]);
  }
  return over_socketpair(O_NONBLOCK);
}

/* ---- waiting ---- */

EVERYWHERE(the_events_that_are_there_are_told) {
  int to[2];
  want(pipe(to), 0);
  want(shunt_wait_fd(to[1], POLLOUT, SHUNT_FOREVER), POLLOUT);
  want(shunt_wait_fd(to[0], POLLIN, 0), UV_ETIMEDOUT);
  want(shunt_write(to[1], "x", 1), 1);
  want(shunt_wait_fd(to[0], POLLIN | POLLPRI, SHUNT_FOREVER), POLLIN);
  close(to[1]);
  want(shunt_wait_fd(to[0], POLLIN, SHUNT_FOREVER), POLLIN | POLLHUP);
  want(shunt_wait_fd(to[0], 0, SHUNT_FOREVER), POLLHUP);
  want(shunt_wait_fd(to[0], POLLNVAL, SHUNT_FOREVER), UV_EINVAL);
  want(shunt_wait_fd(to[0], 1 << 30, SHUNT_FOREVER), UV_EINVAL);
  close(to[0]);
  return 0;
}

EVERYWHERE(a_limit_ends_a_wait_and_not_before) {
  int to[2];
  want(pipe(to), 0);
  uint64_t begun = now_ms();
  want(shunt_wait_fd(to[0], POLLIN, 20), UV_ETIMEDOUT);
  want_that(now_ms() - begun >= 20);
  close(to[0]);
  close(to[1]);
  return 0;
}

EVERYWHERE(a_file_is_always_ready_and_never_has_urgent_data) {
  int file = open("/proc/self/exe", O_RDONLY);
  want(shunt_wait_fd(file, POLLIN | POLLOUT, SHUNT_FOREVER), POLLIN | POLLOUT);
  want(shunt_wait_fd(file, POLLPRI, 5), UV_ETIMEDOUT);
  close(file);
  return 0;
}

static int all_refuse(int bad) {
  char c;
  int pid, closed[3] = {bad, -1, -1};
  struct sockaddr_in any = {.sin_family = AF_INET};
  want(shunt_wait_fd(bad, POLLIN, SHUNT_FOREVER), UV_EBADF);
  want(shunt_read(bad, &c, 1), UV_EBADF);
  want(shunt_read(bad, &c, 0), UV_EBADF);
  want(shunt_write(bad, &c, 1), UV_EBADF);
  want(shunt_write_all(bad, &c, 1), UV_EBADF);
  want(shunt_accept(bad, NULL, NULL), UV_EBADF);
  want(shunt_connect(bad, (struct sockaddr *)&any, sizeof any), UV_EBADF);
  want(shunt_pread(bad, &c, 1, 0), UV_EBADF);
  want(shunt_pwrite(bad, &c, 1, 0), UV_EBADF);
  want(shunt_fsync(bad), UV_EBADF);
  if (bad >= 0) want(shunt_spawn(&pid, "true", (char *[]){"true", NULL}, NULL, closed), UV_EBADF);
  return 0;
}

EVERYWHERE(a_descriptor_that_is_none_is_told_at_once) {
  int closed = fcntl(0, F_DUPFD, 900);
  close(closed);
  int line = all_refuse(closed);
  return line ? line : all_refuse(-1);
}

/* By a thread that may be faster than the wait, or slower; and by the bare system call, as thread sanitizer
 * would rightly call it a race. */
static void *close_it(void *fd) {
  gate_wait(READY, 1);
  syscall(SYS_close, (int)(intptr_t)fd);
  return NULL;
}

EVERYWHERE(closing_under_a_wait_leaves_its_limit_alone) {
  enum { FD = 900 }; /* a number that nobody else is given */
  int to[2], again[2];
  pthread_t closer;
  want(pipe(to), 0);
  want(pipe(again), 0);
  want(dup2(to[0], FD), FD);
  want(pthread_create(&closer, NULL, close_it, (void *)(intptr_t)FD), 0);
  gate_push(READY);
  int err = shunt_wait_fd(FD, POLLIN, 30);
  want_that(err == UV_EBADF || err == UV_ETIMEDOUT);
  pthread_join(closer, NULL);
  want(shunt_wait_fd(FD, POLLIN, 30), UV_EBADF);
  want(dup2(again[0], FD), FD);
  want(write(to[1], "x", 1), 1); /* to what had that number before */
  want(shunt_wait_fd(FD, POLLIN, 5), UV_ETIMEDOUT);
  want(write(again[1], "x", 1), 1);
  want(shunt_wait_fd(FD, POLLIN, SHUNT_FOREVER), POLLIN);
  close(FD);
  for (int i = 0; i < 2; i++) close(to[i]), close(again[i]);
  return 0;
}

/* ---- sockets ---- */

static int listen_on_loopback(struct sockaddr_in *address) {
  socklen_t size = sizeof *address;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  if (bind(fd, (struct sockaddr *)address, size) != 0 || listen(fd, 8) != 0) abort();
  getsockname(fd, (struct sockaddr *)address, &size);
  return fd;
}

static void *connect_and_echo(void *address) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, address, sizeof(struct sockaddr_in)) != 0) abort();
  return echo(&(struct other){.in = fd, .out = fd});
}

EVERYWHERE(a_connection_is_accepted) {
  struct sockaddr_in address, peer = {0};
  socklen_t size = sizeof peer;
  pthread_t other;
  int listener = listen_on_loopback(&address);
  want(pthread_create(&other, NULL, connect_and_echo, &address), 0);
  int fd = shunt_accept(listener, (struct sockaddr *)&peer, &size);
  want_that(fd >= 0);
  want(size, sizeof peer);
  want(peer.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
  want(fcntl(fd, F_GETFD), FD_CLOEXEC);
  want(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
  int line = converse(fd, fd);
  close(fd);
  pthread_join(other, NULL);
  close(listener);
  return line;
}

static void *accept_and_echo(void *listener) {
  int fd = accept(*(int *)listener, NULL, NULL);
  return echo(&(struct other){.in = fd, .out = fd});
}

EVERYWHERE(a_socket_is_connected) {
  struct sockaddr_in address;
  pthread_t other;
  int listener = listen_on_loopback(&address), fd = socket(AF_INET, SOCK_STREAM, 0);
  int flags = fcntl(fd, F_GETFL);
  want(pthread_create(&other, NULL, accept_and_echo, &listener), 0);
  want(shunt_connect(fd, (struct sockaddr *)&address, sizeof address), 0);
  want(fcntl(fd, F_GETFL), flags);
  int line = converse(fd, fd);
  close(fd);
  pthread_join(other, NULL);
  close(listener);
  return line;
}

EVERYWHERE(a_refused_connection_is_told) {
  struct sockaddr_in address;
  int listener = listen_on_loopback(&address), fd = socket(AF_INET, SOCK_STREAM, 0);
  int flags = fcntl(fd, F_GETFL);
  close(listener);
  want(shunt_connect(fd, (struct sockaddr *)&address, sizeof address), UV_ECONNREFUSED);
  want(fcntl(fd, F_GETFL), flags);
  close(fd);
  return 0;
}

EVERYWHERE(only_listening_sockets_accept) {
  int ends[2], udp = socket(AF_INET, SOCK_DGRAM, 0);
  want(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  want(shunt_accept(ends[0], NULL, NULL), UV_EINVAL);
  want(shunt_accept(udp, NULL, NULL), UV_EINVAL);
  want(pipe(ends), 0);
  want(shunt_accept(ends[0], NULL, NULL), UV_ENOTSOCK);
  return 0;
}

EVERYWHERE(names_are_looked_up) {
  struct addrinfo *list = NULL, hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM};
  want(shunt_getaddrinfo(&list, "127.0.0.1", "80", &hints), 0);
  want(list->ai_family, AF_INET);
  want(((struct sockaddr_in *)list->ai_addr)->sin_port, htons(80));
  freeaddrinfo(list);
  want(shunt_getaddrinfo(&list, "no.such.host", "80", &hints), UV_EAI_NONAME);
  want_that(list == NULL);
  want(shunt_getaddrinfo(&list, "127.0.0.1", "no such service", &hints), UV_EAI_SERVICE);
  want(shunt_getaddrinfo(&list, NULL, NULL, NULL), UV_EAI_NONAME);
  return 0;
}

/* ---- files ---- */

static int temporary_file(void) {
  char path[] = "test_io.XXXXXX";
  int fd = mkstemp(path);
  unlink(path);
  return fd;
}

EVERYWHERE(files_are_read_and_written_at_offsets) {
  char buf[8] = "";
  int fd = temporary_file();
  want(shunt_pwrite(fd, "hello", 5, 10), 5);
  want(shunt_fsync(fd), 0);
  want(shunt_pread(fd, buf, 5, 10), 5);
  want(strcmp(buf, "hello"), 0);
  want(shunt_pread(fd, buf, 8, 13), 2);
  want(shunt_pread(fd, buf, 8, 15), 0);
  want(shunt_pread(fd, buf, 8, -1), UV_EINVAL);
  want(shunt_pwrite(fd, buf, 8, -1), UV_EINVAL);
  want(lseek(fd, 0, SEEK_CUR), 0);
  close(fd);
  return 0;
}

EVERYWHERE(a_file_is_a_stream_too) {
  enum { MUCH = 3 << 20 }; /* more than is copied without a thread */
  char *out = malloc(MUCH), *in = calloc(1, MUCH);
  int fd = temporary_file();
  for (int i = 0; i < MUCH; i++) out[i] = (char)(i >> 8 ^ i);
  want(shunt_write_all(fd, out, MUCH), 0);
  want(lseek(fd, 0, SEEK_SET), 0);
  want(shunt_read(fd, in, 1000), 1000);
  want(shunt_read(fd, in + 1000, MUCH), MUCH - 1000);
  want(shunt_read(fd, in, 1), 0);
  want(memcmp(in, out, MUCH), 0);
  close(fd);
  free(in);
  free(out);
  return 0;
}

EVERYWHERE(files_are_opened) {
  char c;
  want(shunt_open("no/such/file", O_RDONLY, 0), UV_ENOENT);
  int fd = shunt_open(".", O_RDONLY, 0);
  want_that(fd >= 0);
  want(fcntl(fd, F_GETFD), FD_CLOEXEC);
  want(shunt_read(fd, &c, 1), UV_EISDIR);
  close(fd);
  return 0;
}

/* ---- child programs ---- */

static int shell(const char *script, const int *stdio, int *status) {
  pid_t pid = 0;
  *status = -1;
  int err = shunt_spawn(&pid, "sh", (char *[]){"sh", "-c", (char *)script, NULL}, NULL, stdio);
  return err ? err : shunt_wait_process(pid, status);
}

EVERYWHERE(how_a_child_ended_is_told) {
  int status;
  want(shell("exit 7", NULL, &status), 0);
  want_that(WIFEXITED(status) && WEXITSTATUS(status) == 7);
  want(shell("kill -s TERM $$; sleep 60", NULL, &status), 0);
  want_that(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
  return 0;
}

EVERYWHERE(a_child_has_the_stdio_that_it_was_given) {
  int to[2], fro[2], status, line = 0;
  char answer[16] = "";
  want(pipe2(to, O_CLOEXEC), 0);
  want(pipe2(fro, O_CLOEXEC), 0);
  want(shunt_write_all(to[1], "4 5\n", 4), 0);
  want(shell("read a b; echo $((a * b)) >&2", (int[]){to[0], -1, fro[1]}, &status), 0);
  want(status, 0);
  want(shunt_read(fro[0], answer, sizeof answer), 3);
  want(strcmp(answer, "20\n"), 0);
  for (int i = 0; i < 2; i++) close(to[i]), close(fro[i]);
  return line;
}

EVERYWHERE(a_program_that_is_not_there_is_told) {
  pid_t pid = 0;
  want(shunt_spawn(&pid, "no-such-program", (char *[]){"x", NULL}, NULL, NULL), UV_ENOENT);
  want(shunt_spawn(&pid, "/", (char *[]){"x", NULL}, NULL, NULL), UV_EACCES);
  want(shunt_spawn(&pid, NULL, (char *[]){"x", NULL}, NULL, NULL), UV_EINVAL);
  want(pid, 0);
  return 0;
}

EVERYWHERE(a_child_is_waited_for_once) {
  pid_t pid = 0;
  want(shunt_spawn(&pid, "true", (char *[]){"true", NULL}, NULL, NULL), 0);
  want(shunt_wait_process(pid, NULL), 0);
  want(shunt_wait_process(pid, NULL), UV_ESRCH);
  want(shunt_wait_process(1, NULL), UV_ESRCH);
  want(shunt_wait_process(-1, NULL), UV_EINVAL);
  want(shunt_wait_process(0, NULL), UV_EINVAL);
  return 0;
}

/* ---- anything that blocks ---- */

static void *twice(void *n) {
  *(int *)n *= 2;
  usleep(1000);
  return n;
}

EVERYWHERE(what_blocks_is_called_and_its_result_handed_back) {
  int n = 21;
  void *result = NULL;
  want(shunt_blocking(twice, &n, &result), 0);
  want(n, 42);
  want_that(result == &n);
  want(shunt_blocking(twice, &n, NULL), 0);
  return 0;
}

static void everywhere(TCase *room, const TTest *test) {
  tcase_add_loop_test(room, test, SHUNT_LANE_ANY, SHUNT_LANE_PROCESS + 1);
}

int main(int argc, char **argv) {
  Suite *suite = suite_create("io");
  TCase *streams = room(suite, "streams", start_plain);
  everywhere(streams, pipes_carry_bytes_to_and_fro);
  everywhere(streams, sockets_carry_bytes_to_and_fro);
  everywhere(streams, terminals_are_read_when_they_are_ready);
  everywhere(streams, more_than_a_pipe_holds_is_written_in_parts);
  everywhere(streams, reading_nothing_never_waits);
  everywhere(streams, a_broken_pipe_is_an_error_and_no_signal);
  everywhere(streams, flags_stay_as_they_were);
  TCase *waiting = room(suite, "waiting", start_plain);
  everywhere(waiting, the_events_that_are_there_are_told);
  everywhere(waiting, a_limit_ends_a_wait_and_not_before);
  everywhere(waiting, a_file_is_always_ready_and_never_has_urgent_data);
  everywhere(waiting, a_descriptor_that_is_none_is_told_at_once);
  everywhere(waiting, closing_under_a_wait_leaves_its_limit_alone);
  TCase *sockets = room(suite, "sockets", start_plain);
  everywhere(sockets, a_connection_is_accepted);
  everywhere(sockets, a_socket_is_connected);
  everywhere(sockets, a_refused_connection_is_told);
  everywhere(sockets, only_listening_sockets_accept);
  everywhere(sockets, names_are_looked_up);
  TCase *files = room(suite, "files", start_plain);
  everywhere(files, files_are_read_and_written_at_offsets);
  everywhere(files, a_file_is_a_stream_too);
  everywhere(files, files_are_opened);
  TCase *children = room(suite, "children", start_plain);
  everywhere(children, how_a_child_ended_is_told);
  everywhere(children, a_child_has_the_stdio_that_it_was_given);
  everywhere(children, a_program_that_is_not_there_is_told);
  everywhere(children, a_child_is_waited_for_once);
  TCase *blocking = room(suite, "blocking", start_plain);
  everywhere(blocking, what_blocks_is_called_and_its_result_handed_back);
  return run(suite, argc, argv);
}
