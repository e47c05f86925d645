/* shunt/sync.h: talking between tasks. Channels, mutexes, limiters, events.
 *
 * They know no lanes: a fiber on the loop, a task on a thread and a thread the library never heard of meet at
 * the same channel. Who must wait suspends or blocks, as in every call of shunt.h.
 *
 *     shunt_chan_t *pages;
 *     int err = shunt_chan_open(&pages, sizeof(page_t), 16);
 *
 *     while ((err = shunt_chan_send(pages, &page, SHUNT_FOREVER)) == 0) ...      one task, on the loop
 *     shunt_chan_close(pages);
 *
 *     while ((err = shunt_chan_recv(pages, &page, SHUNT_FOREVER)) == 0) ...      others, on threads
 *
 *     err = shunt_chan_free(pages);                                             when they have ended
 *
 * RULES THAT HOLD FOR EVERY CALL HERE, beside those of shunt.h
 *
 * Order.      First come, first served, always. What becomes free (an element, a place, a lock, a permit) is
 *             handed to who has waited longest, in the same step; nobody who comes later can be faster.
 * Limits.     The last argument of a call that waits is its limit: SHUNT_FOREVER, or milliseconds; 0 tries and
 *             never waits. A limit that runs out is UV_ETIMEDOUT, and then the call has done nothing.
 * Errors.     A call that waits may return, beside what its own text says, and having done nothing:
 *                 UV_ETIMEDOUT   its limit ran out, or the task's deadline has passed (shunt_cancelled() says)
 *                 UV_ECANCELED   the task was cancelled. A call that is handed what it waits for at the very
 *                                moment of a cancel succeeds; the next one then tells
 *                 SHUNT_EDEADLK  it would wait for ever: in a libuv callback, or in a worker process (below)
 *                 UV_EAGAIN      too many threads wait already (the hard ceiling)
 *                 UV_ENOMEM      no memory to wait with
 *             The others never wait, and work in a cancelled task as ever. Any call: UV_EPERM, see "Processes".
 * Turns.      A call that need not wait does not suspend. A fiber that shall give way all the same yields.
 * Ownership.  Open makes the object, free ends it: when all calls but those that wait for nothing any more have
 *             returned, and none will come. Free says UV_EBUSY, and leaves all as it is, while somebody waits
 *             or holds. On error open sets *out to NULL.
 * Processes.  An object lives in the process that made it. In a worker process those of the program are
 *             refused with UV_EPERM; a task there may make its own, but as it is the only thread there, a call
 *             that would have to wait for another returns SHUNT_EDEADLK. Between processes, pass values: the
 *             argument and the result of a task.
 */
#ifndef SHUNT_SYNC_H
#define SHUNT_SYNC_H

#include <shunt.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct shunt_chan shunt_chan_t;   /* a queue of elements that are copied in and out */
typedef struct shunt_mutex shunt_mutex_t; /* a lock that a task may hold while it waits */
typedef struct shunt_sem shunt_sem_t;     /* a limiter: at most so many at once */
typedef struct shunt_event shunt_event_t; /* something that has happened, or not yet */

/* ---- channels ----------------------------------------------------------------------------------------- */

/* A channel of elements of element_size bytes, of which it holds up to `capacity` that nobody has received
 * yet. With capacity 0 it holds none: a send waits until a receiver takes the element from its hand.
 *
 * Returns 0; UV_EINVAL when element_size is 0; UV_ENOMEM. */
SHUNT_API SHUNT_MUST_USE int shunt_chan_open(shunt_chan_t **out, size_t element_size, size_t capacity);

/* Copies *element into the channel; waits while it is full. Any number of tasks and threads may send. Returns
 * 0, and then the element will be received once, after all that were sent before it (but see close and free);
 * UV_EPIPE when the channel is closed, before or meanwhile; or see "Errors". */
SHUNT_API SHUNT_MUST_USE int shunt_chan_send(shunt_chan_t *c, const void *element, uint64_t timeout_ms);

/* Copies the oldest element to *element and takes it out; waits while there is none. Any number of tasks and
 * threads may receive. Returns 0; UV_EOF when the channel is closed and all it held has been received; or see
 * "Errors". *element is written only with 0. */
SHUNT_API SHUNT_MUST_USE int shunt_chan_recv(shunt_chan_t *c, void *element, uint64_t timeout_ms);

/* Nothing more is sent: senders get UV_EPIPE, those that wait now, too. What the channel holds can still be
 * received. Any side may close, and closing again changes nothing. Returns 0. */
SHUNT_API int shunt_chan_close(shunt_chan_t *c);

/* Frees the channel, closed or not, and the elements in it; what they may point to is the caller's. Returns 0,
 * or UV_EBUSY while somebody waits to send or to receive. */
SHUNT_API int shunt_chan_free(shunt_chan_t *c);

/* ---- mutexes ------------------------------------------------------------------------------------------ */

/* A mutex, free. Its owner is a task or, outside tasks, a thread. A task may hold it across any wait, on the
 * loop too, and others then wait without holding up the loop. A task that ends with a mutex leaves it locked.
 * Returns 0 or UV_ENOMEM. */
SHUNT_API SHUNT_MUST_USE int shunt_mutex_open(shunt_mutex_t **out);

/* Waits until the mutex is the caller's. Returns 0, also when the owner before unlocked it at the moment of a
 * cancel: it is held then, and is to be unlocked. SHUNT_EDEADLK when the caller holds it already, or when the
 * task that holds it waits on this very stack for the calling one to end; or see "Errors". */
SHUNT_API SHUNT_MUST_USE int shunt_mutex_lock(shunt_mutex_t *m, uint64_t timeout_ms);

/* Gives it to who has waited longest, or to nobody. Returns 0; UV_EPERM when it is not the caller's, and then
 * nothing has changed. */
SHUNT_API int shunt_mutex_unlock(shunt_mutex_t *m);

/* Frees it. Returns 0, or UV_EBUSY while somebody holds it. */
SHUNT_API int shunt_mutex_free(shunt_mutex_t *m);

/* ---- limiters ----------------------------------------------------------------------------------------- */

/* A semaphore as a limiter: `permits` at most are out at once, so at most that many are between acquire and
 * release. A permit has no owner: one task may acquire it and another release it. Returns 0; UV_EINVAL when
 * permits is 0; UV_ENOMEM. */
SHUNT_API SHUNT_MUST_USE int shunt_sem_open(shunt_sem_t **out, unsigned permits);

/* Takes one permit; waits while all are out. Returns 0, or see "Errors". */
SHUNT_API SHUNT_MUST_USE int shunt_sem_acquire(shunt_sem_t *sem, uint64_t timeout_ms);

/* Gives one back. Returns 0; UV_EPERM when none is out, and then nothing has changed. */
SHUNT_API int shunt_sem_release(shunt_sem_t *sem);

/* Frees it. Returns 0, or UV_EBUSY while a permit is out. */
SHUNT_API int shunt_sem_free(shunt_sem_t *sem);

/* ---- events ------------------------------------------------------------------------------------------- */

/* An event, not set. It stays set until it is reset. Returns 0 or UV_ENOMEM. */
SHUNT_API SHUNT_MUST_USE int shunt_event_open(shunt_event_t **out);

/* Waits until the event is set. Returns 0, or see "Errors". */
SHUNT_API SHUNT_MUST_USE int shunt_event_wait(shunt_event_t *e, uint64_t timeout_ms);

/* Sets it, and lets all go who wait: a reset right afterwards does not hold them back. Resets it: who waits
 * from now on waits for the next set. What was done before the set is seen after the wait. Return 0. */
SHUNT_API int shunt_event_set(shunt_event_t *e);
SHUNT_API int shunt_event_reset(shunt_event_t *e);

/* Frees it. Returns 0, or UV_EBUSY while somebody waits. */
SHUNT_API int shunt_event_free(shunt_event_t *e);

#ifdef __cplusplus
}
#endif

#endif
