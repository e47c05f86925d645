/* The zygote's two sides: what the program calls, and the loop that runs in the zygote itself. */
#include <config.h>

#include "zygote.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/single_threaded.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../strand.h"
#include "worker.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

static struct {
  pthread_mutex_t lock;
  pid_t owner;  /* the program that forked it: a fork of the program needs one of its own */
  int control;  /* new channels go here */
  shunt_t *rt;  /* the first runtime, which the zygote's memory knows */
} zygote = {.lock = PTHREAD_MUTEX_INITIALIZER, .control = -1};

static bool in_worker;

bool shunt__in_worker(void) { return in_worker; }

/* ---- descriptors over sockets ---- */

enum { FDS_MAX = 4 };

static int send_with_fds(int socket, const void *data, size_t size, const int *fds, int n) {
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
  } control = {0};
  struct iovec iov = {(void *)(uintptr_t)data, size};
  struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
  if (n) {
    msg.msg_control = &control;
    msg.msg_controllen = CMSG_SPACE((size_t)n * sizeof(int));
    control.header = (struct cmsghdr){
        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN((size_t)n * sizeof(int))};
    memcpy(CMSG_DATA(&control.header), fds, (size_t)n * sizeof(int));
  }
  ssize_t sent;
  do sent = sendmsg(socket, &msg, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : 0;
}

/* Bytes received, 0 at the end, or an error. *n: how many descriptors came. */
static ssize_t receive_with_fds(int socket, void *data, size_t size, int *fds, int *n) {
  union {
    struct cmsghdr header;
    char space[CMSG_SPACE(FDS_MAX * sizeof(int))];
  } control;
  struct iovec iov = {data, size};
  struct msghdr msg = {
      .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
  ssize_t got;
  do got = recvmsg(socket, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  while (got < 0 && errno == EINTR);
  *n = 0;
  if (got < 0) return -errno;
  struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
  if (c && c->cmsg_type == SCM_RIGHTS) {
    *n = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(c), (size_t)*n * sizeof(int));
  }
  return got;
}

/* ---- inside the zygote ---- */

typedef struct {
  pid_t pid;
  int channel;
  uint32_t worker;
} child_t;

/* The zygote is one thread and its state is its own. */
static struct {
  int control, program, children_fd; /* new channels; pidfd of the program; SIGCHLD */
  struct pollfd *polls;              /* those three, then the channels */
  size_t channels, room;
  child_t *children;
  size_t count, children_room;
} z;

enum { FIXED = 3 };

static void *grow(void *array, size_t *room, size_t size) {
  *room = *room ? 2 * *room : 16;
  array = realloc(array, *room * size);
  if (!array) _exit(70); /* the parent sees the channel end, and says so */
  return array;
}

static void keep_only_fds(const int *fds, int n) {
  /* Moved to 3, 4, …: first out of the way, then down. */
  int high[FDS_MAX];
  for (int i = 0; i < n; i++) high[i] = fcntl(fds[i], F_DUPFD, 3 + n);
  for (int i = 0; i < n; i++) dup3(high[i], 3 + i, O_CLOEXEC);
  if (!syscall(SYS_close_range, 3 + n, ~0u, 0)) return;
  long most = sysconf(_SC_OPEN_MAX);
  for (int fd = 3 + n; fd < most; fd++) close(fd);
}

static void spawn(int channel, const shunt__order_t *o, const int *fds, int n) {
  pid_t zygote_pid = getpid();
  errno = EMFILE; /* descriptors that do not fit into our table do not come through */
  pid_t pid = n == FDS_MAX ? fork() : -1;
  if (pid == 0) {
    in_worker = true;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* the zygote has one thread, so its end is the process's end */
    if (getppid() != zygote_pid) _exit(0);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    keep_only_fds(fds, FDS_MAX);
    shunt__worker_main(o, zygote.rt, (shunt__worker_fds_t){3, 4, 5, 6});
  }
  shunt__news_t news = {pid < 0 ? SHUNT__NEWS_FAILED : SHUNT__NEWS_SPAWNED, o->worker, pid,
                        pid < 0 ? -errno : 0};
  if (pid > 0) {
    setpgid(pid, pid); /* here too: a kill may come before the child has run */
    if (z.count == z.children_room) z.children = grow(z.children, &z.children_room, sizeof *z.children);
    z.children[z.count++] = (child_t){pid, channel, o->worker};
  }
  send_with_fds(channel, &news, sizeof news, NULL, 0);
}

static void kill_workers(int channel, uint32_t worker, bool all, int signal) {
  for (size_t i = 0; i < z.count; i++)
    if (z.children[i].channel == channel && (all || z.children[i].worker == worker))
      kill(-z.children[i].pid, signal);
}

static bool has_workers(int channel) {
  for (size_t i = 0; i < z.count; i++)
    if (z.children[i].channel == channel) return true;
  return false;
}

static void report_death(pid_t pid, int status) {
  for (size_t i = 0; i < z.count; i++) {
    if (z.children[i].pid != pid) continue;
    shunt__news_t news = {SHUNT__NEWS_DIED, z.children[i].worker, pid, status};
    int channel = z.children[i].channel;
    z.children[i] = z.children[--z.count];
    send_with_fds(channel, &news, sizeof news, NULL, 0);
    return;
  }
}

static void reap(void) {
  struct signalfd_siginfo drop;
  while (read(z.children_fd, &drop, sizeof drop) > 0) {
  }
  for (siginfo_t info = {0}; !waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) && info.si_pid;
       info.si_pid = 0) {
    int status;
    kill(-info.si_pid, SIGKILL); /* what it left behind in its group, whose number is its own until it is
                                    reaped */
    waitpid(info.si_pid, &status, 0);
    report_death(info.si_pid, status);
  }
}

static void drop_channel(size_t i) {
  int channel = z.polls[i].fd;
  kill_workers(channel, 0, true, SIGKILL);
  while (has_workers(channel)) { /* SIGKILL leaves no choice, so this ends */
    poll(&(struct pollfd){z.children_fd, POLLIN, 0}, 1, -1);
    reap();
  }
  close(channel);
  z.polls[i] = z.polls[FIXED + --z.channels];
}

/* False: the channel has ended. */
static bool serve(int channel) {
  shunt__order_t o;
  int fds[FDS_MAX], n;
  ssize_t got = receive_with_fds(channel, &o, sizeof o, fds, &n);
  if (got == -EAGAIN) return true;
  if (got != sizeof o || o.kind == SHUNT__ORDER_END) return false;
  if (o.kind == SHUNT__ORDER_SPAWN) spawn(channel, &o, fds, n);
  if (o.kind == SHUNT__ORDER_KILL) kill_workers(channel, o.worker, false, o.signal);
  while (n > 0) close(fds[--n]);
  return true;
}

static _Noreturn void end_with_program(void) {
  for (size_t i = 0; i < z.count; i++) kill(-z.children[i].pid, SIGKILL);
  _exit(0);
}

static void add_channel(void) {
  char byte;
  int fd, n;
  ssize_t got = receive_with_fds(z.control, &byte, 1, &fd, &n);
  if (got == 0) end_with_program();
  if (got < 0 || n != 1) return;
  if (FIXED + z.channels == z.room) z.polls = grow(z.polls, &z.room, sizeof *z.polls);
  z.polls[FIXED + z.channels++] = (struct pollfd){fd, POLLIN, 0};
}

static void default_signals(void) {
  for (int s = 1; s < NSIG; s++) signal(s, SIG_DFL);
  sigset_t mask;
  sigfillset(&mask);
  sigprocmask(SIG_SETMASK, &mask, NULL); /* workers unblock all again */
}

/* If the program has closed 0, 1 or 2, ours must not take their place: a worker prints to them. */
static void fill_stdio(void) {
  int fd;
  do fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= 2);
  if (fd > 2) close(fd);
}

static _Noreturn void zygote_main(int control, int program) {
  setpgid(0, 0); /* the terminal's Ctrl-C is for the program */
  default_signals();
  fill_stdio();
  keep_only_fds((int[]){control, program}, program < 0 ? 1 : 2);
  prctl(PR_SET_NAME, "shunt-zygote");
  sigset_t chld;
  sigemptyset(&chld);
  sigaddset(&chld, SIGCHLD);
  z.control = 3;
  z.program = program < 0 ? -1 : 4;
  z.children_fd = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
  z.polls = grow(NULL, &z.room, sizeof *z.polls);
  z.polls[0] = (struct pollfd){z.control, POLLIN, 0};
  z.polls[1] = (struct pollfd){z.program, POLLIN, 0};
  z.polls[2] = (struct pollfd){z.children_fd, POLLIN, 0};
  for (;;) {
    if (poll(z.polls, FIXED + z.channels, -1) < 0) continue;
    if (z.polls[1].revents) end_with_program();
    if (z.polls[2].revents) reap();
    for (size_t i = FIXED + z.channels; i-- > FIXED;)
      if (z.polls[i].revents && !serve(z.polls[i].fd)) drop_channel(i);
    if (z.polls[0].revents) add_channel();
  }
}

/* ---- inside the program ---- */

/* A fork that is invisible to wait() and raises no SIGCHLD: exit signal 0. Only to fork once more, properly,
 * and leave: the C library has not been told of this one. So not in a program that has threads already, one
 * of which might hold malloc's lock: then a fork as any other, and the program may see one SIGCHLD. */
static pid_t quiet_fork(void) {
  return __libc_single_threaded ? (pid_t)syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L) : fork();
}

/* Like a pair of sockets, but never in the place of a descriptor from 0 to 2 that the program has closed. */
static int socket_pair(int ends[2]) {
  int low[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, low)) return -errno;
  ends[0] = fcntl(low[0], F_DUPFD_CLOEXEC, 3);
  ends[1] = fcntl(low[1], F_DUPFD_CLOEXEC, 3);
  int err = ends[0] < 0 || ends[1] < 0 ? -errno : 0;
  close(low[0]);
  close(low[1]);
  if (err && ends[0] >= 0) close(ends[0]);
  return err;
}

static int fork_zygote(int control, int keep) {
  int program = (int)syscall(SYS_pidfd_open, getpid(), 0); /* absent before Linux 5.3: then the control
                                                              socket's end must do */
  fflush(NULL);
  pid_t middle = quiet_fork();
  if (middle == 0) {
    pid_t pid = fork();
    if (pid == 0) {
      close(keep);
      zygote_main(control, program);
    }
    _exit(pid < 0 ? errno : 0);
  }
  int err = middle < 0 ? -errno : 0, status = 0;
  if (middle > 0) {
    while (waitpid(middle, &status, __WALL) < 0 && errno == EINTR) {
    }
    err = WIFEXITED(status) ? -WEXITSTATUS(status) : UV_EAGAIN;
  }
  if (program >= 0) close(program);
  return err;
}

static int start_locked(shunt_t *rt) {
  int ends[2];
  if (zygote.owner == getpid()) return 0;
  if (zygote.control >= 0) close(zygote.control); /* the one of the program that forked us */
  zygote.control = -1;
  int err = socket_pair(ends);
  if (err) return err;
  zygote.rt = rt;
  err = fork_zygote(ends[1], ends[0]);
  close(ends[1]);
  if (err) {
    close(ends[0]);
    return err;
  }
  zygote.control = ends[0];
  zygote.owner = getpid();
  return 0;
}

int shunt__zygote_start(shunt_t *rt) {
  pthread_mutex_lock(&zygote.lock);
  int err = start_locked(rt);
  pthread_mutex_unlock(&zygote.lock);
  return err;
}

int shunt__zygote_channel(void) {
  int ends[2], err = socket_pair(ends);
  if (err) return err;
  pthread_mutex_lock(&zygote.lock);
  err = send_with_fds(zygote.control, "", 1, &ends[1], 1);
  pthread_mutex_unlock(&zygote.lock);
  close(ends[1]);
  if (!err) return ends[0];
  close(ends[0]);
  return err;
}

int shunt__zygote_order(int channel, const shunt__order_t *order, const int *fds, int n) {
  return send_with_fds(channel, order, sizeof *order, fds, n);
}

int shunt__zygote_news(int channel, shunt__news_t *news) {
  ssize_t got = recv(channel, news, sizeof *news, MSG_DONTWAIT);
  if (got == sizeof *news) return 1;
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  return got < 0 ? -errno : UV_EOF;
}

void shunt__zygote_leave(int channel, uint64_t deadline) {
  shunt__order_t end = {.kind = SHUNT__ORDER_END};
  shunt__news_t news;
  int err = shunt__zygote_order(channel, &end, NULL, 0);
  while (!err) { /* the zygote closes its end once it has reaped the last of them */
    uint64_t now = shunt__now();
    if (now >= deadline) break;
    poll(&(struct pollfd){channel, POLLIN, 0}, 1, (int)((deadline - now) / 1000000 + 1));
    while ((err = shunt__zygote_news(channel, &news)) == 1) {
    }
  }
  close(channel);
}
