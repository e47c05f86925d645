/* shunt/sync.h: talking between tasks. Channels, mutexes, limiters, events.
 *
 * They know no lanes. A fiber on the loop, a task on a thread and a thread that the library never heard of
 * meet at the same channel; who must wait there suspends or blocks, as in every call of shunt.h.
 *
 *     shunt_chan_t *pages;
 *     int err = shunt_chan_open(&pages, sizeof(page_t), 16);
 *
 *     while (next_page(&page) && (err = shunt_chan_send(pages, &page, SHUNT_FOREVER)) == 0) ;   one task
 *     shunt_chan_close(pages);
 *
 *     while ((err = shunt_chan_recv(pages, &page, SHUNT_FOREVER)) == 0) work_on(&page);         some others
 *
 *     err = shunt_chan_free(pages);                                               when all have been joined
 *
 * RULES THAT HOLD FOR EVERY CALL HERE, beside those of shunt.h
 *
 * Order.      First come, first served, everywhere. What becomes free (an element, room for one, a lock, a
 *             permit) is handed to who has waited longest, in the same step; nobody who comes later can be
 *             faster.
 * Limits.     The last argument of a call that waits is its limit in milliseconds. 0 tries and never waits,
 *             SHUNT_FOREVER never ends.
 * Errors.     A call that waits may return these, beside what its own text says, and then has done nothing:
 *               UV_ETIMEDOUT   its limit ran out; or the task's deadline passed (shunt_cancelled() tells)
 *               UV_ECANCELED   the task was cancelled
 *               SHUNT_EDEADLK  it would never end: in a callback of libuv, or in a worker process (below)
 *               UV_EAGAIN      too many threads wait already (the hard ceiling)
 *               UV_ENOMEM      no memory to wait with
 *             If what a call waits for is handed to it at the very moment of a cancel or of its limit, it
 *             keeps that and succeeds; the next call that waits then tells of the cancel. Calls that never
 *             wait work in a cancelled task as ever: it can always unlock, release, set and close.
 * Turns.      A call that need not wait does not suspend. A fiber that sends or receives for long without
 *             ever having to wait should shunt_yield() now and then.
 * Ownership.  Open makes the object; on error it sets *out to NULL. Free ends it, once every call has
 *             returned and none will come: join the tasks that use it first. While somebody waits at it or
 *             holds it, free returns UV_EBUSY and changes nothing.
 * Processes.  An object belongs to the process that made it. In a worker process every call on one of the
 *             program's returns UV_EPERM. A task there may make its own, but it is the only one who makes
 *             calls in that process, so where it would have to wait it gets SHUNT_EDEADLK instead. Between
 *             processes go the arguments and the results of tasks.
 */
#ifndef SHUNT_SYNC_H
#define SHUNT_SYNC_H

#include <shunt.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct shunt_chan shunt_chan_t;   /* a queue of elements that are copied in and out */
typedef struct shunt_mutex shunt_mutex_t; /* a lock that its owner may hold while it waits */
typedef struct shunt_sem shunt_sem_t;     /* a limiter: so many at once and no more */
typedef struct shunt_event shunt_event_t; /* something that has happened, or has not yet */

/* ---- channels ----------------------------------------------------------------------------------------- */

/* A channel for elements of element_size bytes, with room for `capacity` that were sent and not yet
 * received. With capacity 0 there is none: a send waits until a receiver takes the element from its hand.
 *
 * Returns 0; UV_EINVAL when element_size is 0; UV_ENOMEM. */
SHUNT_API SHUNT_MUST_USE int shunt_chan_open(shunt_chan_t **out, size_t element_size, size_t capacity);

/* Copies *element into the channel. Waits while there is no room. Any number of tasks and threads may send.
 *
 * Returns 0: the element will be received once, after all that were sent before it. UV_EPIPE: the channel is
 * closed, or was while the call waited. Or see "Errors". */
SHUNT_API SHUNT_MUST_USE int shunt_chan_send(shunt_chan_t *c, const void *element, uint64_t timeout_ms);

/* Takes the oldest element out and copies it to *element. Waits while there is none. Any number of tasks and
 * threads may receive.
 *
 * Returns 0. UV_EOF: the channel is closed, and all that was sent has been received. Or see "Errors".
 * *element is written only with 0. */
SHUNT_API SHUNT_MUST_USE int shunt_chan_recv(shunt_chan_t *c, void *element, uint64_t timeout_ms);

/* Nothing more can be sent; what was sent can still be received. Whoever waits to send gets UV_EPIPE, whoever
 * waits to receive UV_EOF. Either side may close; to close again changes nothing. Never waits. Returns 0. */
SHUNT_API int shunt_chan_close(shunt_chan_t *c);

/* Frees the channel, closed or not, with the elements that are in it (not what they may point to). Never
 * waits. Returns 0; UV_EBUSY while somebody waits to send or to receive. */
SHUNT_API int shunt_chan_free(shunt_chan_t *c);

/* ---- mutexes ------------------------------------------------------------------------------------------ */

/* A mutex that nobody holds. Its owner is a task or, outside tasks, a thread. It may be held across any wait,
 * on the loop too; a fiber that waits for it leaves the loop to others. A task that returns without
 * unlocking leaves it locked for good.
 *
 * Returns 0; UV_ENOMEM. */
SHUNT_API SHUNT_MUST_USE int shunt_mutex_open(shunt_mutex_t **out);

/* Waits until the mutex is the caller's. Returns 0: it is. SHUNT_EDEADLK, whatever the limit, also when the
 * caller holds it already, or a task does that waits for the caller's to end and runs it in its own place.
 * Or see "Errors". */
SHUNT_API SHUNT_MUST_USE int shunt_mutex_lock(shunt_mutex_t *m, uint64_t timeout_ms);

/* Hands it to who has waited longest, if anybody waits. Never waits. Returns 0; UV_EPERM when the caller does
 * not hold it, and nothing has changed. */
SHUNT_API int shunt_mutex_unlock(shunt_mutex_t *m);

/* Frees it. Never waits. Returns 0; UV_EBUSY while it is held. */
SHUNT_API int shunt_mutex_free(shunt_mutex_t *m);

/* ---- limiters ----------------------------------------------------------------------------------------- */

/* A semaphore that limits how many are between its acquire and its release: no more than `permits`. A permit
 * is nobody's own: one task may acquire it and another one release it.
 *
 * Returns 0; UV_EINVAL when permits is 0; UV_ENOMEM. */
SHUNT_API SHUNT_MUST_USE int shunt_sem_open(shunt_sem_t **out, unsigned permits);

/* Takes one permit. Waits while all are out. Returns 0, or see "Errors". */
SHUNT_API SHUNT_MUST_USE int shunt_sem_acquire(shunt_sem_t *sem, uint64_t timeout_ms);

/* Brings one back, for who has waited longest if anybody waits. Never waits. Returns 0; UV_EPERM when none is
 * out, and nothing has changed. */
SHUNT_API int shunt_sem_release(shunt_sem_t *sem);

/* Frees it. Never waits. Returns 0; UV_EBUSY while a permit is out. */
SHUNT_API int shunt_sem_free(shunt_sem_t *sem);

/* ---- events ------------------------------------------------------------------------------------------- */

/* An event, not set. Returns 0; UV_ENOMEM. */
SHUNT_API SHUNT_MUST_USE int shunt_event_open(shunt_event_t **out);

/* Waits until the event is set; it stays set. What was done before the set is seen after the wait. Returns 0,
 * or see "Errors". */
SHUNT_API SHUNT_MUST_USE int shunt_event_wait(shunt_event_t *e, uint64_t timeout_ms);

/* Sets the event, and lets go all who wait; a reset at once does not hold them back. Reset: who comes from
 * now on waits for the next set. Neither waits. Both return 0. */
SHUNT_API int shunt_event_set(shunt_event_t *e);
SHUNT_API int shunt_event_reset(shunt_event_t *e);

/* Frees it. Never waits. Returns 0; UV_EBUSY while somebody waits. */
SHUNT_API int shunt_event_free(shunt_event_t *e);

#ifdef __cplusplus
}
#endif

#endif
