/* Scopes, as the front door sees them. */
#ifndef SHUNT_SCOPE_H
#define SHUNT_SCOPE_H

#include "task.h"

/* Makes t, which has not been pushed yet, a member. 0, UV_ENOMEM, or UV_ECANCELED when the scope has been
 * cancelled. */
int shunt__scope_join(shunt_scope_t *scope, shunt_task_t *t);

/* What was to be a member has failed before it could join. */
void shunt__scope_fail(shunt_scope_t *scope, int status);

/* The scope's deadline in shunt__now()'s time; 0: none. */
uint64_t shunt__scope_bound(const shunt_scope_t *scope);

#endif
