/* Child programs. A child that ended shows on its pidfd, so waiting for it is waiting for a descriptor; no
 * SIGCHLD is needed, and nobody else's child is touched. */
#include <config.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

extern char **environ;

/* ---- spawn ---- */

typedef struct {
  const char *file;
  char *const *argv, *const *envp;
  const int *stdio;
  pid_t pid;
  int error;
} spawning_t;

static int prepare_stdio(posix_spawn_file_actions_t *actions, const int *stdio, int copies[3]) {
  for (int i = 0; i < 3; i++) {
    /* Copies beyond 2 first: one of the three may be where another is to go. */
    if (stdio[i] >= 0 && (copies[i] = fcntl(stdio[i], F_DUPFD_CLOEXEC, 3)) < 0) return errno;
    int err = stdio[i] < 0 ? posix_spawn_file_actions_addopen(actions, i, "/dev/null", O_RDWR, 0)
                           : posix_spawn_file_actions_adddup2(actions, copies[i], i);
    if (err) return err;
  }
  return 0;
}

static int spawn(spawning_t *sp, posix_spawn_file_actions_t *actions, posix_spawnattr_t *attr) {
  int copies[3] = {-1, -1, -1};
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(attr, &none); /* our threads block all signals, and a child would inherit that */
  posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSIGMASK);
  int err = sp->stdio ? prepare_stdio(actions, sp->stdio, copies) : 0;
  if (!err) err = posix_spawnp(&sp->pid, sp->file, actions, attr, sp->argv, sp->envp ? sp->envp : environ);
  for (int i = 0; i < 3; i++)
    if (copies[i] >= 0) close(copies[i]);
  return -err;
}

static void *spawn_it(void *arg) {
  spawning_t *sp = arg;
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attr;
  sp->error = -posix_spawn_file_actions_init(&actions);
  if (sp->error) return NULL;
  sp->error = -posix_spawnattr_init(&attr);
  if (!sp->error) {
    sp->error = spawn(sp, &actions, &attr);
    posix_spawnattr_destroy(&attr);
  }
  posix_spawn_file_actions_destroy(&actions);
  return NULL;
}

int shunt_spawn(pid_t *pid, const char *file, char *const argv[], char *const envp[], const int stdio[3]) {
  spawning_t sp = {.file = file, .argv = argv, .envp = envp, .stdio = stdio};
  if (!file || !argv || !argv[0]) return UV_EINVAL;
  int err = shunt_blocking(spawn_it, &sp, NULL);
  if (!err) err = sp.error;
  if (!err) *pid = sp.pid;
  return err;
}

/* ---- wait ---- */

/* UV_EAGAIN: it runs. */
static int reap(pid_t pid, int *status) {
  pid_t got;
  do got = waitpid(pid, status, WNOHANG);
  while (got < 0 && errno == EINTR);
  if (got < 0) return errno == ECHILD ? UV_ESRCH : -errno; /* libuv has no word for ECHILD */
  return got ? 0 : UV_EAGAIN;
}

static int reap_when_ended(shunt__strand_t *s, pid_t pid, int *status) {
  int err = reap(pid, status), fd;
  if (err != UV_EAGAIN) return err;
  if ((fd = (int)syscall(SYS_pidfd_open, pid, 0)) < 0) return -errno;
  do err = shunt__io_wait(s, fd, POLLIN, SHUNT__NEVER);
  while (!err && (err = reap(pid, status)) == UV_EAGAIN);
  close(fd);
  return err;
}

int shunt_wait_process(pid_t pid, int *status) {
  shunt__strand_t *s;
  int err = shunt__io_enter(&s);
  if (!err && pid <= 0) err = UV_EINVAL; /* groups, to waitpid(2) */
  return err ? err : reap_when_ended(s, pid, status);
}
