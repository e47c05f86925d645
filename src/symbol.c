/* A function in words: its symbol where the dynamic linker knows one, else the object that it lies in and the
 * offset. */
#include <config.h>

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

void shunt__symbol(shunt_fn fn, char *buf, size_t size) {
  Dl_info info;
  void *address = (void *)(uintptr_t)fn;
  if (!dladdr(address, &info) || !info.dli_fname) {
    snprintf(buf, size, "%p", address);
  } else if (info.dli_sname && info.dli_saddr == address) {
    snprintf(buf, size, "%s", info.dli_sname);
  } else {
    const char *slash = strrchr(info.dli_fname, '/');
    snprintf(buf, size, "%s+0x%zx", slash ? slash + 1 : info.dli_fname,
             (size_t)((char *)address - (char *)info.dli_fbase));
  }
}
