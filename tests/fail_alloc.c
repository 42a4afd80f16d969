/* Preloaded, lets chosen allocations fail, as on a machine without memory: see allocations.py. */
#include <errno.h>
#include <execinfo.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

static long seen, first = LONG_MAX, last = LONG_MAX;
static size_t least = 1;

/* Says on stderr in which libraries a signal struck, the innermost first; then it ends the process. */
static void say_where(int number) {
  static void *frames[100];
  backtrace_symbols_fd(frames, backtrace(frames, 100), STDERR_FILENO);
  (void)number;
}

static void say_exit(void) { say_where(0); }

static void tell_ends(void) {
  struct sigaction action = {.sa_handler = say_where, .sa_flags = SA_RESETHAND};
  void *frame[1];
  backtrace(frame, 1); /* it loads a library the first time */
  sigaction(SIGSEGV, &action, NULL);
  sigaction(SIGBUS, &action, NULL);
  sigaction(SIGABRT, &action, NULL);
  atexit(say_exit);
}

/* From now on, of the allocations of `bytes` or more, those from number `from` up to `to` fail. */
void fail_allocations(size_t bytes, long from, long to) {
  if (from < LONG_MAX / 2) tell_ends();
  least = bytes;
  first = from;
  last = to;
  __atomic_store_n(&seen, 0, __ATOMIC_SEQ_CST);
}

long allocations_seen(void) { return __atomic_load_n(&seen, __ATOMIC_SEQ_CST); }

static int fails(size_t size) {
  if (size < least) return 0;
  long number = __atomic_fetch_add(&seen, 1, __ATOMIC_SEQ_CST);
  if (number < first || number > last) return 0;
  errno = ENOMEM;
  return 1;
}

void *malloc(size_t size) { return fails(size) ? NULL : __libc_malloc(size); }

void *calloc(size_t count, size_t size) {
  size_t whole;
  if (__builtin_mul_overflow(count, size, &whole)) whole = SIZE_MAX;
  return fails(whole) ? NULL : __libc_calloc(count, size);
}

void *realloc(void *old, size_t size) { return fails(size) ? NULL : __libc_realloc(old, size); }

void *memalign(size_t align, size_t size) {
  return fails(size) ? NULL : __libc_memalign(align, size);
}

void *aligned_alloc(size_t align, size_t size) { return memalign(align, size); }

int posix_memalign(void **out, size_t align, size_t size) {
  void *found = memalign(align, size);
  if (!found) return ENOMEM;
  *out = found;
  return 0;
}

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
  if (fails(size)) return MAP_FAILED;
  return (void *)syscall(SYS_mmap, at, size, protection, flags, file, offset);
}

void *mmap64(void *at, size_t size, int protection, int flags, int file, off_t offset) {
  return mmap(at, size, protection, flags, file, offset);
}
