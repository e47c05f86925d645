/* shunt/io.h: descriptors, files, names and child programs, awaited.
 *
 * Each call here is one that C programs know, under its own name with shunt_ before it, and with its meaning.
 * What is different is how it waits: a task on the loop suspends and others run, anything else blocks its
 * thread; and the wait ends when the task is cancelled or its deadline passes. So a function that blocks in
 * read(2) on a thread today says shunt_read() tomorrow, and may then run on the loop as it is.
 *
 *     static void *echo(void *connection) {
 *       int fd = (int)(intptr_t)connection;
 *       char buf[4096];
 *       for (ssize_t n; (n = shunt_read(fd, buf, sizeof buf)) > 0;)
 *         if (shunt_write_all(fd, buf, (size_t)n) != 0) break;
 *       close(fd);
 *       return NULL;
 *     }
 *
 * RULES THAT HOLD FOR EVERY CALL HERE, beside those of shunt.h
 *
 * Where.      In a task on any lane, and in any thread outside tasks, where nothing cancels them. In a libuv
 *             callback a call that would have to wait, or whose work could block, returns SHUNT_EDEADLK.
 * Errors.     A negative number, never errno: what the system said (UV_EPIPE, UV_ECONNREFUSED, …; UV_EBADF for
 *             a descriptor that is none), or, beside what a call's own text says,
 *                 UV_ECANCELED   the task was cancelled
 *                 UV_ETIMEDOUT   its deadline has passed (or a limit of the call: shunt_cancelled() tells)
 *                 SHUNT_EDEADLK  see "Where"
 *                 UV_ENOMEM, UV_EMFILE, UV_EAGAIN   there was no memory, descriptor or thread to wait with
 *             Interruption by a signal handler is no error: the call goes on. EPIPE comes without a SIGPIPE.
 * Cancel.     A call made after the cancel does nothing; one that waits then ends. One that succeeds at that
 *             very moment succeeds, and the next one tells. Some work cannot be interrupted, such as reading a
 *             file: its call returns when it is done, and with what came of it. Those calls say so.
 * Turns.      A call that need not wait does not suspend, but on the loop one in 16 lets others run first: so
 *             a task whose data never ceases to come cannot keep the loop to itself.
 * Flags.      None changes those of a caller's descriptor. O_NONBLOCK may be set or not, it makes no
 *             difference. Descriptors that these calls make have close-on-exec set, and no other flag.
 * Ownership.  Descriptors and memory stay the caller's. A descriptor must not be closed while a call uses it:
 *             the wait would go on until its limit, or meet a stranger under the same number. To end somebody
 *             else's wait, cancel the task, or shutdown(2) the socket.
 * Processes.  Descriptors do not travel: a task in a worker process has 0, 1 and 2, and what it opens itself.
 */
#ifndef SHUNT_IO_H
#define SHUNT_IO_H

#include <netdb.h>
#include <poll.h>
#include <shunt.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- waiting ------------------------------------------------------------------------------------------ */

/* Waits until one of `events` is there on fd, as poll(2) has them: POLLIN, POLLOUT, POLLPRI, POLLRDHUP; with 0,
 * until there is one of those that are always waited for, POLLERR and POLLHUP. A regular file is always ready.
 *
 * Any number of tasks may wait for one descriptor, and all whose event comes are woken; so one may find that
 * another was faster. The calls below know that.
 *
 * Returns those that are there, > 0, POLLERR and POLLHUP among them; UV_ETIMEDOUT when timeout_ms has passed
 * (0 only looks); UV_EINVAL for events that poll(2) does not have. */
SHUNT_API int shunt_wait_fd(int fd, int events, uint64_t timeout_ms);

/* ---- streams: sockets, pipes, terminals, whatever has a descriptor ------------------------------------ */

/* Reads at most n bytes: waits until there is one, and takes what there is. Returns how many, and 0 at the end
 * (the other side will send no more), or when n is 0.
 *
 * A regular file is read as shunt_pread does it, at its position; fewer than n bytes are then not yet the end. */
SHUNT_API SHUNT_MUST_USE ssize_t shunt_read(int fd, void *buf, size_t n);

/* One write of at most n bytes: waits until there is room for one, and writes what there is room for. Returns
 * how many, which may be fewer than n. UV_EPIPE when nobody will read it. */
SHUNT_API SHUNT_MUST_USE ssize_t shunt_write(int fd, const void *buf, size_t n);

/* Writes all n bytes, with as many writes and waits as that takes. Returns 0; or an error, and then some may
 * have been written, nobody knows how many. Two tasks that write to one descriptor may come between each other. */
SHUNT_API SHUNT_MUST_USE int shunt_write_all(int fd, const void *buf, size_t n);

/* ---- sockets ------------------------------------------------------------------------------------------ */

/* Takes the next connection that comes to the listening socket fd. address and size may be NULL; else *size
 * says how large *address is, and afterwards how long the peer's address. Any number of tasks may accept from
 * one socket. Returns the new descriptor, which is the caller's. UV_EMFILE, UV_ENFILE: there was none to be
 * had, and the connection waits on; who tries again at once will be told the same.
 *
 * Where other processes, or threads with calls of their own, accept from the same socket, set O_NONBLOCK on it:
 * accept(2) has no other way not to wait for a connection that somebody else was faster to take. */
SHUNT_API SHUNT_MUST_USE int shunt_accept(int fd, struct sockaddr *address, socklen_t *size);

/* Connects the socket fd, and waits until that has succeeded or failed: UV_ECONNREFUSED, UV_ETIMEDOUT (also the
 * network's word for "no answer"), UV_EHOSTUNREACH, and UV_EAGAIN when a local (AF_UNIX) listener has too many
 * that wait already. Returns 0 or an error.
 *
 * After a cancel, connecting goes on behind the scenes: close the socket, or call this again to wait on. */
SHUNT_API SHUNT_MUST_USE int shunt_connect(int fd, const struct sockaddr *address, socklen_t size);

/* Looks up names as getaddrinfo(3) does, which may ask servers and take seconds; on the loop, a thread does it.
 * Returns 0 and a list through out, which the caller frees with freeaddrinfo(3); or an error, UV_EAI_NONAME,
 * UV_EAI_AGAIN and the like among them, and *out is NULL.
 *
 * A cancel ends the wait on the loop, and the thread finishes by itself. Elsewhere it cannot be interrupted. */
SHUNT_API SHUNT_MUST_USE int shunt_getaddrinfo(struct addrinfo **out, const char *node, const char *service,
                                               const struct addrinfo *hints);

/* ---- files -------------------------------------------------------------------------------------------- */

/* Regular files have no readiness to wait for: a disk may hold up whoever reads. So on the loop a thread does
 * it and the task suspends, unless the bytes are in memory and few; elsewhere these are the plain calls. They
 * cannot be interrupted once they have begun.
 *
 * open(2), close-on-exec; returns the descriptor. A FIFO is opened so, too, and that waits for the other end. */
SHUNT_API SHUNT_MUST_USE int shunt_open(const char *path, int flags, mode_t mode);

/* Reads or writes n bytes at this offset, and leaves the descriptor's position alone. Returns how many: fewer
 * than n only at the end of the file, on a full disk, or when an error came half-way, which the next call then
 * returns. UV_EINVAL for a negative offset, UV_ESPIPE for a descriptor that has no positions. */
SHUNT_API SHUNT_MUST_USE ssize_t shunt_pread(int fd, void *buf, size_t n, off_t offset);
SHUNT_API SHUNT_MUST_USE ssize_t shunt_pwrite(int fd, const void *buf, size_t n, off_t offset);

/* Waits until what was written to fd is on the disk. Returns 0, or an error, after which nobody knows. */
SHUNT_API SHUNT_MUST_USE int shunt_fsync(int fd);

/* ---- child programs ----------------------------------------------------------------------------------- */

/* Starts a program in a process of its own, as posix_spawnp(3): `file` is searched for in PATH unless it has a
 * slash, argv and envp end with NULL, envp may be NULL for the caller's environment. stdio may be NULL, or holds
 * what is to be the child's 0, 1 and 2, where -1 is /dev/null; NULL leaves it ours. Of other descriptors it gets
 * those without close-on-exec. It starts with no signal blocked, whatever the caller blocks.
 *
 * Returns 0, and its id through pid; UV_ENOENT, UV_EACCES, … when it could not be started. The child is the
 * caller's process's: whoever starts it sees to it that somebody waits for it, cancelled or not. Cannot be
 * interrupted. A child of a worker process ends with that at the latest. */
SHUNT_API SHUNT_MUST_USE int shunt_spawn(pid_t *pid, const char *file, char *const argv[], char *const envp[],
                                         const int stdio[3]);

/* Waits until that child has ended, and takes its status (see WIFEXITED and so on in waitpid(2)) through status,
 * which may be NULL. Returns 0; UV_ESRCH when pid is no child of this process, or has been waited for. After a
 * cancel the child is still there to be waited for, or to be killed first: shunt_shield() helps. */
SHUNT_API SHUNT_MUST_USE int shunt_wait_process(pid_t pid, int *status);

/* ---- anything else that blocks ------------------------------------------------------------------------ */

/* Calls fn(arg) where it may block: on the loop a thread does it and the task suspends; elsewhere it is just the
 * call. The argument stays here, so fn may use what lies on the caller's stack; of the calls of this library it
 * may make shunt_cancelled(). Does not return before fn has.
 *
 * Returns 0, and through result (may be NULL) what fn returned; UV_ECANCELED, UV_ETIMEDOUT when fn was not
 * called, or on the loop when it was told by shunt_cancelled(); SHUNT_EDEADLK in a libuv callback. *result is
 * NULL when fn was not called. */
SHUNT_API SHUNT_MUST_USE int shunt_blocking(shunt_fn fn, void *arg, void **result);

#ifdef __cplusplus
}
#endif

#endif
