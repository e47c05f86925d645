/* shunt: one submit() for event loop, threads and processes.
 *
 * A program hands functions to shunt_submit() and gets handles back. The library runs each function on one of
 * three lanes:
 *
 *     loop      a fiber on the libuv loop: waiting costs a stack page, not a thread
 *     thread    a pool of pthreads that grows while its workers are blocked and shrinks when they are not
 *     process   a pool of forked workers: real cores, and a crash that hurts nobody else
 *
 * A handle is awaited in the same way wherever its task runs and wherever the waiter is: in main(), in a
 * thread the library never heard of, in a task on any lane, in a worker process.
 *
 *     static void *resize(void *job) { ... return NULL; }          an old pthread function, as it is
 *
 *     shunt_t *s;
 *     int err = shunt_start(&s, NULL);
 *     shunt_task_t *t = shunt_submit(s, resize, job, NULL);
 *     err = shunt_join(t, NULL);
 *     err = shunt_stop(s, SHUNT_FOREVER);
 *
 * RULES THAT HOLD FOR EVERY CALL
 *
 * Errors.      0 is success; a negative number is an error: libuv's (UV_EINVAL, UV_ENOMEM, …) or one of
 *              SHUNT_ERRORS below. shunt_strerror() has words for both.
 * Arguments.   Context first, then outputs, then inputs. Outputs may be NULL where the text says so. An
 *              options pointer may be NULL; an options struct is zero-initialised, zero means the default,
 *              and later versions add fields at its end only.
 * Time.        uint64_t milliseconds. In a call, 0 polls and SHUNT_FOREVER never ends. In an option, 0 is
 *              "none".
 * Threads.     Every call may be made from any thread and from a task on any lane, unless it says otherwise.
 *              In a worker process the thread that runs the task may make calls; threads that the task
 *              started there may not.
 * Waiting.     "Waits" means: a task on the loop suspends and others run; anything else blocks its thread. A
 *              waiting call made on the loop's thread outside any task (in a libuv callback) returns
 *              SHUNT_EDEADLK at once: it would never end.
 * Cancel.      A cancelled task is told by level, not by edge: from the cancel on, each waiting call it makes
 *              returns UV_ECANCELED (UV_ETIMEDOUT when its deadline was the cause) at once, until the task
 *              returns.
 *
 * BY REFERENCE AND BY VALUE
 *
 * By default the argument and the result are pointers, owned by whoever the two sides agree on. Such a task
 * stays in this process. With arg_size > 0 (or SHUNT_BY_VALUE, when there is no argument) the argument is
 * copied in at submit; the task gets bytes of its own, aligned to 16 and free to be changed, which are gone
 * when it returns; its result is bytes too, made by shunt_return() or shunt_alloc() and owned by the handle.
 * By value is a promise: the function works on those bytes alone (no descriptors, locks or changing globals
 * of the submitter), so it may run on any lane. The rule is the same on every lane, so moving a task to
 * another lane never changes who frees what.
 *
 * SETTLING
 *
 * Every handle settles exactly once: with 0, or with an error. A by-reference handle never settles while its
 * function can still touch the argument: a timeout or a cancel asks the function to end, and the handle
 * settles when it returns. A by-value handle settles at its deadline; the library keeps the bytes until the
 * function is through with them.
 *
 * A task that was cancelled while it ran settles with UV_ECANCELED if it was told (shunt_cancelled() said
 * true, or a waiting call failed); one that never looked ran to its end, and settles with what it returned.
 * One whose deadline passed while it ran settles with UV_ETIMEDOUT. In each case a by-reference result is
 * still handed out, so nothing it points to is lost. Deadlines are kept by the loop's thread: a task that
 * blocks that thread delays them all.
 */
#ifndef SHUNT_H
#define SHUNT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define SHUNT_API __attribute__((visibility("default")))
#define SHUNT_MUST_USE __attribute__((warn_unused_result))
#define SHUNT_PRINTF(at, first) __attribute__((__format__(__printf__, at, first)))
#else
#define SHUNT_API
#define SHUNT_MUST_USE
#define SHUNT_PRINTF(at, first)
#endif

#define SHUNT_VERSION_MAJOR 0
#define SHUNT_VERSION_MINOR 1
#define SHUNT_VERSION_PATCH 0
#define SHUNT_VERSION "0.1.0"

#define SHUNT_FOREVER UINT64_MAX

/* Our own errors, beside libuv's. */
#define SHUNT_ERRORS(X)                                                                                     \
  X(EPENDING, -5001, "the task has not settled yet")                                                        \
  X(EDEADLK, -5002, "waiting here would never end: in a libuv callback, or for the waiting task itself")    \
  X(ECRASHED, -5003, "the worker process died while it ran the task")                                       \
  X(EBYREF, -5004, "by reference a task cannot leave this process: give arg_size, or SHUNT_BY_VALUE")       \
  X(ECLOSED, -5005, "the runtime is stopping or has stopped")                                               \
  X(EABANDONED, -5006, "the function did not return when the runtime stopped, and was left behind")         \
  X(EEXITED, -5007, "the task ended its own thread (pthread_exit) instead of returning")
/* The last is for the thread lane: a legacy function that leaves by pthread_exit settles there all the same
 * (without a result), and the pool goes on; run in place by a waiter, it takes the waiter's thread with it.
 * On the loop it would end the loop: do not. */

enum {
#define SHUNT_ERROR_ENUM(name, number, text) SHUNT_##name = number,
  SHUNT_ERRORS(SHUNT_ERROR_ENUM)
#undef SHUNT_ERROR_ENUM
};

typedef struct shunt shunt_t;             /* a runtime */
typedef struct shunt_task shunt_task_t;   /* a handle */
typedef struct shunt_scope shunt_scope_t; /* a group of tasks that cannot outlive it */
typedef struct shunt_each shunt_each_t;   /* tasks, in order of completion */

/* The same shape as a pthread's function: what runs on a thread today can be submitted as it is. */
typedef void *(*shunt_fn)(void *arg);

/* What a task is. */
typedef enum {
  SHUNT_AUTO = 0, /* let the library decide; today it treats the task as blocking */
  SHUNT_ASYNC,    /* waits in calls of this header only, and computes little: the loop */
  SHUNT_BLOCKING, /* may block in calls of its own: a thread */
  SHUNT_CPU       /* computes: a worker process when by value, else one of as many threads as there are
                     cores */
} shunt_kind_t;

/* Where a task runs. */
typedef enum {
  SHUNT_LANE_ANY = 0, /* as an option: by kind. In shunt_info: it was refused at submit */
  SHUNT_LANE_LOOP,
  SHUNT_LANE_THREAD,
  SHUNT_LANE_PROCESS
} shunt_lane_t;

/* Task flags. */
enum {
  SHUNT_BY_VALUE = 1,   /* by value though arg_size is 0: the function gets NULL */
  SHUNT_IDEMPOTENT = 2, /* may run again when its worker process dies under it (three attempts in all) */
  SHUNT_LOOP_OK = 4,    /* auto may run it on the loop: it holds no lock across a wait and needs little
                           stack */
  SHUNT_WAIT = 8        /* submit waits for room where it would have failed with UV_EAGAIN; it still does
                           in a libuv callback, which cannot wait, and in a worker process; and fails with
                           UV_ECANCELED or UV_ETIMEDOUT when the submitting task shall end. The new task's
                           own timeout runs meanwhile, but does not end this wait */
};

/* ---- runtime ------------------------------------------------------------------------------------------- */

typedef struct {
  uv_loop_t *loop;        /* must be NULL: the library runs a loop of its own on a thread of its own */
  unsigned max_threads;   /* tasks running on threads at once; 0: 256. One that waits in a call of ours
                             does not count, and a substitute starts, up to 1024 above this; the same for
                             processes, up to 64 above */
  unsigned max_processes; /* tasks running in worker processes at once; 0: one per core this process may
                             use */
  size_t max_pending;     /* tasks accepted but not started; 0: 1 << 20. A few more may be queued inside
                             worker processes */
  size_t stack_size;      /* bytes of stack of a task on the loop; 0: 256 KiB. Pages that it never touches
                             cost nothing */
  int (*worker_init)(void *data); /* run once in every worker process; not 0 ends the worker, and if that
                                     happens three times in a row what is queued fails with SHUNT_ECRASHED.
                                     NULL: none */
  void *worker_data;
  /* A task failed, not by a cancel, and its last reference went before anyone awaited it or asked for its
   * status. Called on whatever thread released it; must not wait. t is valid during the call. */
  void (*on_unobserved)(shunt_task_t *t, void *data);
  void *unobserved_data;
} shunt_options_t;

/* Starts a runtime. Call it early in main(), before the program starts threads: the first call in a program
 * forks the process from which all worker processes come, and those see the program's globals as they are
 * now. Stdio buffers are flushed first. In a worker, what the program's first call put into *out is that
 * worker's own view of the runtime that it works for, so a global `shunt_t *` works in tasks on every lane;
 * shunt_current() always does.
 *
 * A runtime at rest is two things: its loop thread, and that one small process (shared by all runtimes, and
 * gone when the program is). Worker threads and processes start when there is work. Workers keep no
 * descriptors of the program but 0, 1 and 2.
 *
 * Returns 0; UV_EINVAL for options that make no sense; UV_EPERM in a worker process; UV_ENOMEM, UV_EAGAIN,
 * UV_EMFILE, … when the system refuses what is needed. On error *out is NULL. */
SHUNT_API SHUNT_MUST_USE int shunt_start(shunt_t **out, const shunt_options_t *options);

/* Ends a runtime. New work is refused with SHUNT_ECLOSED from now on; what was accepted has grace_ms to
 * finish; then what is left is cancelled; 100 ms later workers that still run are killed, and a thread that
 * still runs is left behind. Every handle has settled when this returns, and remains usable until it is
 * released. (The one exception to settling: a task left behind settles with SHUNT_EABANDONED though its
 * function may still touch its argument.)
 *
 * The runtime itself is never freed: a submit that comes too late, or a second stop, finds a closed door.
 * Waits. Not from a task of this runtime and not from the loop's thread (SHUNT_EDEADLK), not in a worker
 * process (UV_EPERM). A second call returns SHUNT_ECLOSED. With SHUNT_FOREVER it waits for every function to
 * return, a by-value one that is past its deadline included. Returns 0, or SHUNT_EABANDONED when something
 * was left behind: a function that still runs, and what of the runtime it may use. */
SHUNT_API int shunt_stop(shunt_t *s, uint64_t grace_ms);

/* The runtime's libuv loop, for use on the loop's thread: in a task on the loop, or in a callback of that
 * loop. NULL in a worker. */
SHUNT_API uv_loop_t *shunt_uv_loop(shunt_t *s);

/* ---- submit -------------------------------------------------------------------------------------------- */

typedef struct {
  shunt_kind_t kind;
  shunt_lane_t lane;    /* SHUNT_LANE_ANY: by kind; else exactly this lane */
  size_t arg_size;      /* > 0: by value, and arg points to this many bytes */
  uint64_t timeout_ms;  /* deadline, counted from submit; 0: none */
  shunt_scope_t *scope; /* the task joins this scope; NULL: none */
  const char *name;     /* for messages and traces, copied; NULL: the function's symbol, or its address */
  unsigned flags;       /* SHUNT_BY_VALUE and so on */
} shunt_task_options_t;

/* Options written in place: shunt_submit(s, f, x, SHUNT_WITH(.kind = SHUNT_CPU, .arg_size = sizeof *x)).
 * Lives until the block ends. */
#define SHUNT_WITH(...) (&(const shunt_task_options_t){__VA_ARGS__})

/* Hands fn(arg) to a lane and returns its handle, which the caller owns: it ends in shunt_join, shunt_collect
 * or shunt_release.
 *
 * Never returns NULL and never waits (but see SHUNT_WAIT). What cannot be accepted comes back as a handle
 * that has settled already:
 *     UV_EAGAIN      max_pending tasks are waiting to start
 *     UV_EINVAL      fn is NULL, arg is NULL but arg_size is not 0, an option is out of range, or the process
 *                    lane by reference
 *     UV_ENOMEM      no memory for the task
 *     SHUNT_ECLOSED  the runtime is stopping
 *     SHUNT_EBYREF   by reference, from inside a worker process
 *     UV_ECANCELED   its scope has been cancelled
 * A task submitted in a worker process runs where the parent places it, on any lane. */
SHUNT_API SHUNT_MUST_USE shunt_task_t *shunt_submit(shunt_t *s, shunt_fn fn, void *arg,
                                                    const shunt_task_options_t *options);

/* ---- handles ------------------------------------------------------------------------------------------- */

/* Waits until t settles. Returns its status, and through result (may be NULL) what its function returned: by
 * reference the pointer, whatever the status; by value the bytes, owned by the handle (NULL unless the status
 * is 0). Any number of waiters may await one handle, before and after it settles.
 *
 * A thread that awaits a task still queued for the thread lane runs it right there, on its own stack, instead
 * of waiting for a worker to do so; it then returns when that task does, though the awaiting one were
 * cancelled meanwhile.
 *
 * May return before t has settled, with *result NULL and
 *     UV_ECANCELED, UV_ETIMEDOUT   the *awaiting* task was cancelled, or its deadline passed
 *     SHUNT_EDEADLK                see "Waiting" above; also a task that awaits itself
 *     UV_EAGAIN                    too many worker processes or threads wait already (the hard ceiling) and t
 *                                  has no room to run
 * shunt_done(t) tells these from t's own status. */
SHUNT_API int shunt_await(shunt_task_t *t, void **result);

/* The same with a limit: UV_ETIMEDOUT when t has not settled in time. Never runs t in place. */
SHUNT_API int shunt_await_for(shunt_task_t *t, uint64_t timeout_ms, void **result);

/* Waits until one of n handles has settled. Returns the index of one that has, the lowest when there are
 * several; or UV_ETIMEDOUT, the errors of shunt_await, UV_EINVAL when n is 0, UV_ENOMEM. */
SHUNT_API int shunt_await_any(shunt_task_t *const tasks[], size_t n, uint64_t timeout_ms);

/* Waits until all n handles have settled, whatever comes of each. Returns 0 (at once when n is 0) or the
 * first failure in index order; or UV_ETIMEDOUT and the errors of shunt_await when it could not wait for
 * all. */
SHUNT_API int shunt_await_all(shunt_task_t *const tasks[], size_t n, uint64_t timeout_ms);

/* Waits until t has settled, hands out the result of a by-reference task (NULL for a by-value one: use
 * shunt_collect), and releases t. It does not run from a cancel of the awaiting task, which it passes on to
 * t; so after it a by-reference argument is free again. Returns t's status. SHUNT_EDEADLK: it cannot wait
 * here (see "Waiting" and shunt_await); t is then *not* released. */
SHUNT_API int shunt_join(shunt_task_t *t, void **result);

/* Joins a by-value task and copies its result into buf; a shorter result leaves the rest of buf as it was.
 * Returns t's status; t is released. Not released, so that the caller can try again or look at
 * shunt_result(): UV_EMSGSIZE, the result is larger than size (nothing was copied); UV_EINVAL, t is by
 * reference; SHUNT_EDEADLK. */
SHUNT_API int shunt_collect(shunt_task_t *t, void *buf, size_t size);

/* The bytes of a by-value task that settled with 0, and their number through size (may be NULL): valid while
 * t is held. NULL with size 0 when there are none: empty, failed, by reference, or not settled. Never
 * waits. */
SHUNT_API const void *shunt_result(shunt_task_t *t, size_t *size);

/* One reference less, one more. The last release of a handle frees it and its result; the task itself still
 * runs to its end. */
SHUNT_API void shunt_release(shunt_task_t *t);
SHUNT_API shunt_task_t *shunt_retain(shunt_task_t *t);

/* Has t settled, and with what? shunt_status is SHUNT_EPENDING until then. */
SHUNT_API bool shunt_done(shunt_task_t *t);
SHUNT_API int shunt_status(shunt_task_t *t);

/* What a cancel came to. */
typedef enum {
  SHUNT_TOO_LATE = 0, /* it had settled already */
  SHUNT_WITHDRAWN,    /* it never ran and never will; settled with UV_ECANCELED */
  SHUNT_REQUESTED,    /* it runs, and was asked to end: see "Cancel" and "Settling" above */
  SHUNT_KILLED        /* it runs in a worker process that will be ended within 100 ms unless the task
                         returns first: then it settles as any task that was asked */
} shunt_cancel_t;

/* Cancels t, and says what that came to. Does not wait for t. In a worker process it waits for the parent's
 * answer. */
SHUNT_API shunt_cancel_t shunt_cancel(shunt_task_t *t);

/* What is known of one task. Times are nanoseconds, 0 where not measured: a task from the loop to the loop
 * that never waits is measured one time in 16. */
typedef struct {
  shunt_lane_t lane;   /* where it ran, or waits to; SHUNT_LANE_ANY: refused at submit */
  const char *reason;  /* why there, in words */
  uint64_t queued_ns;  /* from submit to start */
  uint64_t run_ns;     /* from start to return, waits included */
  uint64_t cpu_ns;     /* CPU time of that */
  unsigned attempts;   /* how often it was started; 0 when withdrawn */
  pid_t pid;           /* the worker process it ran in; 0: this process */
  int signal;          /* SHUNT_ECRASHED: what killed the worker, or 0 */
  int exit_status;     /* SHUNT_ECRASHED without a signal: the worker's exit status */
  const char *message; /* a failure in words; NULL when there is none beyond shunt_strerror(status) */
} shunt_info_t;

/* Fills *info. May be called at any time; complete once t has settled. The strings live while t is held.
 * Never waits. */
SHUNT_API void shunt_info(shunt_task_t *t, shunt_info_t *info);

/* ---- after a task -------------------------------------------------------------------------------------- */

/* Submits fn for when t has settled with 0; its argument is then t's result: the pointer, or the bytes and
 * their number (the new task is by value exactly when t is; options->arg_size must be 0). When t fails, fn is
 * skipped and the new handle settles with t's status and message. The new handle's timeout counts from this
 * call (in a worker process it is looked at when its turn comes), and cancelling it leaves t alone. Takes no
 * reference to t from the caller. Returns a handle as shunt_submit does, with the same errors. */
SHUNT_API SHUNT_MUST_USE shunt_task_t *shunt_then(shunt_task_t *t, shunt_fn fn,
                                                  const shunt_task_options_t *options);

/* Calls cb(t, data) once on the loop's thread when t has settled (soon, if it has already). cb must not wait;
 * t is valid during the call, and shunt_stop waits for it. 0, UV_ENOMEM, SHUNT_ECLOSED, or UV_ENOTSUP in a
 * worker process, which has no loop. */
SHUNT_API int shunt_on_done(shunt_task_t *t, void (*cb)(shunt_task_t *t, void *data), void *data);

/* A descriptor that is readable once t has settled, for a foreign event loop: poll it, do not read it. The
 * same one at each call; it belongs to the handle and is closed with it. Or a negative error: UV_EMFILE,
 * UV_ENOMEM. */
SHUNT_API int shunt_task_fd(shunt_task_t *t);

/* n tasks in order of completion. Begin with shunt_each, then call shunt_each_next, which waits for the next
 * to settle and returns its index; UV_EOF after the last; UV_ETIMEDOUT and the errors of shunt_await, after
 * which it may be called again. One caller at a time. shunt_each_end may come early; it frees *each and
 * leaves the tasks alone. The handles must be held until then. shunt_each: 0 or UV_ENOMEM. */
SHUNT_API SHUNT_MUST_USE int shunt_each(shunt_each_t **each, shunt_task_t *const tasks[], size_t n);
SHUNT_API int shunt_each_next(shunt_each_t *each, uint64_t timeout_ms);
SHUNT_API void shunt_each_end(shunt_each_t *each);

/* ---- scopes -------------------------------------------------------------------------------------------- */

/* A scope is a group of tasks that cannot outlive it: open one, submit into it (options.scope), close it;
 * close waits for all. The first member that fails cancels the others. Its deadline is its members', and that
 * of whatever those submit, on every lane. */
typedef struct {
  uint64_t timeout_ms; /* deadline of all that is submitted, from now; 0: none but the one inherited */
  bool keep_going;     /* a failure cancels nobody */
} shunt_scope_options_t;

/* NULL when there is no memory. Inside a task with a scope's deadline, that one holds here too. */
SHUNT_API SHUNT_MUST_USE shunt_scope_t *shunt_scope_open(shunt_t *s, const shunt_scope_options_t *options);

/* Cancels the members, and whatever is submitted into the scope from now on. Does not wait. */
SHUNT_API void shunt_scope_cancel(shunt_scope_t *scope);

/* Waits until every member has settled and frees the scope. Returns 0 or the status of the first member that
 * failed (UV_ECANCELED after shunt_scope_cancel). A cancel of the closing task cancels the scope; close still
 * waits. Handles of members remain the submitter's to release. SHUNT_EDEADLK: it cannot wait here (see
 * shunt_join); the scope then stays open. Only one thread closes; meanwhile none but the members may submit
 * into the scope or cancel it. */
SHUNT_API int shunt_scope_close(shunt_scope_t *scope);

/* ---- inside a task ------------------------------------------------------------------------------------- */

/* The runtime of the running task; in a worker process the worker's view of it. NULL outside tasks. */
SHUNT_API shunt_t *shunt_current(void);

/* The running task's own handle, borrowed: shunt_retain() it to keep it. NULL outside tasks. */
SHUNT_API shunt_task_t *shunt_self(void);

/* True once the running task should end: it was cancelled, or its deadline has passed. Costs a load. False
 * outside tasks. */
SHUNT_API bool shunt_cancelled(void);

/* Waits for ms milliseconds at least. 0, or UV_ECANCELED / UV_ETIMEDOUT when the task is cancelled before or
 * meanwhile, or SHUNT_EDEADLK. Outside tasks it sleeps. */
SHUNT_API int shunt_sleep(uint64_t ms);

/* Lets others run: on the loop all that is ready goes first, elsewhere the system decides. Errors as
 * shunt_sleep. */
SHUNT_API int shunt_yield(void);

/* Suspends the task until shunt_resume is called for it (once, before or after); for awaiting any callback of
 * libuv's or another library's: start the operation, suspend, resume from the callback. A resume that nobody
 * waits for is kept; several count as one. 0, UV_ETIMEDOUT, or the errors of shunt_sleep: the operation is
 * then still under way, and its callback must not touch what the task frees. Inside tasks only (UV_EINVAL).
 * shunt_resume: any thread that holds the handle; not across processes. */
SHUNT_API int shunt_suspend(uint64_t timeout_ms);
SHUNT_API void shunt_resume(shunt_task_t *t);

/* Runs fn(arg) here and now with the task's cancel and deadline out of its sight: waiting calls in it work,
 * for a clean-up that must not be interrupted. Keep it short: whoever cancelled waits, and a worker process
 * is killed after its 100 ms all the same. Returns what fn returned. Outside tasks just the call. */
SHUNT_API void *shunt_shield(shunt_fn fn, void *arg);

/* The result of a by-value task: `return shunt_return(data, size);` copies size bytes, `p =
 * shunt_alloc(size); … return p;` builds them in place, which on every lane saves the copy. Memory from
 * shunt_alloc that is not returned is freed when the task ends. Aligned to 16. NULL when there is no memory:
 * return that, and the task settles with UV_ENOMEM. size 0 is a valid, empty result.
 *
 * A by-value task returns NULL (an empty result) or what these gave it; anything else settles it with
 * UV_EINVAL, on every lane. So does calling them in a by-reference task. */
SHUNT_API void *shunt_return(const void *data, size_t size);
SHUNT_API void *shunt_alloc(size_t size);

/* Makes the running task fail: `return shunt_fail(UV_EIO, "cannot read %s", path);`. error is negative
 * (anything else becomes UV_EINVAL); the words are for shunt_info()'s message and may be NULL. The last call
 * counts. Returns NULL. */
SHUNT_API void *shunt_fail(int error, const char *format, ...) SHUNT_PRINTF(2, 3);

/* ---- words --------------------------------------------------------------------------------------------- */

/* An error of libuv's or ours in words, and by name ("UV_EINVAL", "SHUNT_ECRASHED", "OK" for 0). Static
 * strings, "unknown error" / "UNKNOWN" for anything else. */
SHUNT_API const char *shunt_strerror(int error);
SHUNT_API const char *shunt_err_name(int error);

/* "loop", "thread", "process"; "none" for SHUNT_LANE_ANY. */
SHUNT_API const char *shunt_lane_name(shunt_lane_t lane);

#ifdef __cplusplus
}
#endif

#endif
