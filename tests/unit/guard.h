/* Bytes that end where the memory ends: a parser that reads one too far dies here, sanitizer or none. */
#ifndef GUARD_H
#define GUARD_H

#define GUARD_ROOM (128 * 1024)         /* twice the longest head */

/* A copy of n bytes whose last lies before a page without access. The next call takes its place. */
static char *
guard_copy(const char *p, size_t n)
{
	static char *end;
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	if (end == NULL) {
		char *map = mmap(NULL, GUARD_ROOM + page, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		assert(map != MAP_FAILED && mprotect(map + GUARD_ROOM, page, PROT_NONE) == 0);
		end = map + GUARD_ROOM;
	}
	assert(n <= GUARD_ROOM);
	if (n != 0)
		memcpy(end - n, p, n);
	return end - n;
}

static int test_passed, test_failed;

/* One line a case; a failed one says why. */
__attribute__((format(printf, 3, 4))) static void
test_result(bool ok, const char *name, const char *why, ...)
{
	va_list ap;

	printf(ok ? "ok " : "not ok ");
	for (; *name != '\0'; name++)
		printf((unsigned char)*name < 0x20 || (unsigned char)*name >= 0x7f ? "\\x%02x" : "%c",
		    (unsigned char)*name);
	if (!ok) {
		printf(": ");
		va_start(ap, why);
		vprintf(why, ap);
		va_end(ap);
	}
	printf("\n");
	++*(ok ? &test_passed : &test_failed);
}

static int
test_end(void)
{
	printf("%d passed, %d failed\n", test_passed, test_failed);
	return test_failed != 0;
}
#endif
