/* The zygote: the single-threaded process, one per program, that forks the workers and reaps them.
 *
 * It was forked by the first shunt_start before the library had a thread, so what it forks is whole: no lock
 * is held by a thread that is not there. It is no child of the program (an intermediate process forked it and
 * left), so the program's wait() and SIGCHLD do not see it, unless the program adopts orphans (as process 1,
 * or by PR_SET_CHILD_SUBREAPER). Each runtime has a channel to it: a SOCK_SEQPACKET socket on which spawns
 * and kills go there, and deaths come back. Closing the channel ends the runtime's workers; the program's
 * end, seen by a pidfd, ends all. */
#ifndef SHUNT_ZYGOTE_H
#define SHUNT_ZYGOTE_H

#include <shunt.h>
#include <sys/types.h>

enum shunt__order_kind { SHUNT__ORDER_SPAWN = 1, SHUNT__ORDER_KILL, SHUNT__ORDER_END };

typedef struct {
  uint32_t kind;
  uint32_t worker; /* the runtime's name for it */
  int32_t signal;  /* kill: to the worker's process group */
  uint64_t region_size, arguments_size; /* spawn: these, and four descriptors: region, arguments, doorbell,
                                           pager */
  int (*init)(void *data);
  void *data;
} shunt__order_t;

enum shunt__news_kind { SHUNT__NEWS_SPAWNED = 1, SHUNT__NEWS_DIED, SHUNT__NEWS_FAILED };

typedef struct {
  uint32_t kind;
  uint32_t worker;
  pid_t pid;
  int32_t status; /* died: as of wait(); failed: a negative error */
} shunt__news_t;

/* Forks the zygote if this program has none. Where `rt` is will be, in every worker, its view of the runtime
 * that it works for; so a global that holds the program's runtime holds the right thing in workers too, even
 * after a stop and a new start. */
int shunt__zygote_start(shunt_t *rt);

/* A new channel: its descriptor, or an error. */
int shunt__zygote_channel(void);

/* Sends an order with n descriptors. 0 or an error; the descriptors stay the caller's. */
int shunt__zygote_order(int channel, const shunt__order_t *order, const int *fds, int n);

/* The next news: 1, 0 when there is none yet, or an error (UV_EOF: the zygote is gone). */
int shunt__zygote_news(int channel, shunt__news_t *news);

/* Ends the channel's workers, waits until all are gone (at most until `deadline`), and closes it. */
void shunt__zygote_leave(int channel, uint64_t deadline);

/* Is this a worker process? */
bool shunt__in_worker(void);

#endif
