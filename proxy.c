/* Sallyport: a credential-injecting egress proxy.
 *
 * An agent in a sandbox reaches the network through this program alone. It decides which request
 * may carry which credential, attaches it, and sends the request on; the agent never holds a key.
 *
 * Trusted: the operator, this binary, the store opened with its key. Not trusted: the agent, the
 * upstream, a policy's author's care, the disk. C owns bytes, time and secrets; Lua owns decisions.
 * The C core knows no credential type, and a policy never sees a socket.
 *
 * The file has three parts. Part I is the spine: what a reviewer reads, at most 6,000 lines of code.
 * Parts II and III are organs: each banner says what the section is for and who may skip it. A
 * section calls those above it; what Part I calls of the organs is declared in `organs`. A section's
 * bounds stand at its head, each with its reason. `grep '^/\* ---- '` finds the heads, `grep '^conn_'`
 * a section's functions.
 *
 *   I    util    slices, wiping, logging           II   addr    IP addresses, the guard
 *        secret  the locked arena of secrets            codec, field, uri   texts of HTTP
 *        text    the one growing, wiped writer          trust   certificates, ours and theirs
 *        loop    clock, timers, epoll, threads          session, tls: openssl, via   resumption, TLS 1.3, a proxy
 *        organs  what is called of II and III           json    read, edit in place
 *        net     listen, resolve, dial                  subst, scrub, known   placeholders
 *        tls     BearSSL's pump                         sign, ident    keys, SigV4, mTLS
 *        http    heads and framing                      filter  signed chunks, WebSockets, scrub, MCP
 *        peer    one end, plain or TLS                  handover, door, agent, meter, count       shares
 *        flow    bytes from end to end                  store, table, seal, reqlog   the disk
 *        task    Lua on the loop                   III  embed, lua      modules and the sandbox
 *        req     one request, head to record            kept    decisions that hold on
 *        conn    a client and its requests              fetch, helper   our own requests, programs
 *        main    commands, master, workers              bind    Lua's modules, in seven sections
 *                                                       jail    system calls of `sallyport run`
 *                                                       start   main()
 *
 * The way of an HTTPS request. The tunnel: conn_accept, conn_step_head (a head is whole), req_parse
 * (which host it is for), req_start (a task: lua/pipeline.lua decides, and calls back into
 * `bind: request`), conn_step_decide and conn_act (what was decided: a tunnel, 200),
 * conn_step_sniff and conn_step_handshake (TLS with the client). Then each request inside:
 * conn_step_head and req_parse again; kept_again where an earlier request was like it, else
 * req_start; conn_act, conn_begin_dial, conn_step_dial, conn_step_relay (a flow each way) and
 * conn_next_request, which writes the log record and goes back to conn_step_head.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <grp.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <limits.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pwd.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <bearssl.h>
#include <lmdb.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <lzma.h>
#ifndef SALLYPORT_LEAN
#include <nghttp2/nghttp2.h>
#endif
#include <openssl/err.h>        /* types and numbers alone: section `tls: openssl` finds the functions at run time */
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <zlib.h>

#ifndef BUILD_TIME
#define BUILD_TIME 1767225600    /* Unix seconds; build.sh gives the commit's date. A clock before it is unset */
#endif
#ifndef VERSION
#define VERSION "0.1.0"
#endif

/* ==== Part I: the spine =====================================================
 * What a reviewer reads: how bytes come in, who decides, and how bytes go out. Each section calls
 * the ones above it. What it calls of Parts II and III is declared in `organs`, and may be taken
 * at the word of that declaration in a first reading.
 */

/* ---- util ------------------------------------------------------------------
 * Slices, numbers, hexadecimal and base64, wiping, randomness, the log's lines. Invariants: a slice
 * borrows its bytes and owns nothing; no function here allocates, or knows of sockets, Lua or time. */
struct slice {
	const char *p;          /* borrowed; not NUL-terminated */
	size_t n;
};
#define SLICE_INIT(lit) {"" lit, sizeof(lit) - 1}
#define SLICE(lit) ((struct slice)SLICE_INIT(lit))
#define COUNT(array) (sizeof(array) / sizeof *(array))
/* The struct whose member p points at. */
#define OWNER(p, type, member) ((type *)(void *)((char *)(uintptr_t)(p) - offsetof(type, member)))

static struct slice
slice_of(const char *cstr)
{
	return (struct slice){cstr, strlen(cstr)};
}

static bool
slice_eq(struct slice a, struct slice b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

/* Has one of eight bytes that value? Its bit 7 is set, and perhaps those of later ones. */
static inline uint64_t
ascii_eight(const char *p, char c)
{
	uint64_t ones = ~(uint64_t)0 / 255, v;

	memcpy(&v, p, sizeof v);
	v = le64toh(v) ^ ones * (uint8_t)c;
	return (v - ones) & ~v & ones << 7;
}

static bool
ascii_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool
ascii_alnum(char c)
{
	return ascii_digit(c) || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static char
ascii_lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static bool
slice_eq_nocase(struct slice a, struct slice b)
{
	if (a.n != b.n)
		return false;
	for (size_t i = 0; i < a.n; i++)
		if (ascii_lower(a.p[i]) != ascii_lower(b.p[i]))
			return false;
	return true;
}

static bool
slice_begins_nocase(struct slice s, struct slice with)
{
	return s.n >= with.n && slice_eq_nocase((struct slice){s.p, with.n}, with);
}

/* The bytes of `s` before the first `mark`; all of `s` where there is none. */
static struct slice
slice_until(struct slice s, char mark)
{
	const char *end = s.n != 0 ? memchr(s.p, mark, s.n) : NULL;

	return (struct slice){s.p, end != NULL ? (size_t)(end - s.p) : s.n};
}

/* As slice_until, and takes those bytes and the mark off `left`. */
static struct slice
slice_cut(struct slice *left, char mark)
{
	struct slice piece = slice_until(*left, mark);
	size_t n = piece.n + (piece.n < left->n);

	*left = (struct slice){left->p + n, left->n - n};
	return piece;
}

/* Below 0, 0 or above 0, as with memcmp; a prefix is less than a longer slice. */
static int
slice_order(struct slice a, struct slice b)
{
	int order = a.n == 0 || b.n == 0 ? 0 : memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);

	return order != 0 ? order : a.n < b.n ? -1 : a.n > b.n;
}

static bool
slice_has(struct slice in, struct slice what)
{
	return what.n != 0 && in.n >= what.n && memmem(in.p, in.n, what.p, what.n) != NULL;
}

/* Writes `s` as a C string. False: `s` is empty, holds a NUL or does not fit. */
static bool
slice_cstr(struct slice s, char *out, size_t cap)
{
	if (s.n == 0 || s.n >= cap || memchr(s.p, '\0', s.n) != NULL)
		return false;
	memcpy(out, s.p, s.n);
	out[s.n] = '\0';
	return true;
}

/* 1*DIGIT up to `max`: no sign, no 0x, no white space. */
static bool
slice_number(struct slice s, uint64_t max, uint64_t *out)
{
	uint64_t v = 0;

	for (size_t i = 0; i < s.n; i++) {
		uint64_t digit = (uint64_t)(unsigned char)s.p[i] - '0';

		if (digit > 9 || digit > max || v > (max - digit) / 10)
			return false;
		v = v * 10 + digit;
	}
	*out = v;
	return s.n != 0;
}

/* FNV-1a: spreads names over slots. Whoever makes names collide has gained a few comparisons. */
static uint32_t
text_hash(const char *text)
{
	uint32_t h = 2166136261u;

	for (; *text != '\0'; text++)
		h = (h ^ (unsigned char)*text) * 16777619u;
	return h;
}

/* Copies a C string into a field of `cap` bytes. False: it was cut to fit. */
static bool
text_copy(char *out, size_t cap, const char *in)
{
	size_t n = strnlen(in, cap);
	bool fits = n < cap;

	if (!fits)
		n = cap - 1;
	memcpy(out, in, n);
	out[n] = '\0';
	return fits;
}

static void
wipe(void *p, size_t n)
{
	if (n != 0)
		explicit_bzero(p, n);
}

/* Constant time in the contents; the length is not a secret. */
static bool
ct_eq(const void *a, const void *b, size_t n)
{
	const unsigned char *x = a, *y = b;
	unsigned char d = 0;

	for (size_t i = 0; i < n; i++)
		d |= x[i] ^ y[i];
	return d == 0;
}

/* At most 256 bytes, which getentropy(3) never cuts short; the largest key takes 64. */
static bool
rand_bytes(void *out, size_t n)
{
	return getentropy(out, n) == 0;
}

/* Big-endian integers of n bytes. */
static inline uint64_t
load_be(const void *p, size_t n)
{
	const uint8_t *b = p;
	uint64_t v = 0;

	for (size_t i = 0; i < n; i++)
		v = v << 8 | b[i];
	return v;
}

static inline void
store_be(void *p, size_t n, uint64_t v)
{
	uint8_t *b = p;

	for (; n-- != 0; v >>= 8)
		b[n] = (uint8_t)v;
}

#define load_be16(p) ((uint16_t)load_be(p, 2))
#define load_be32(p) ((uint32_t)load_be(p, 4))
#define load_be64(p) load_be(p, 8)
#define store_be16(p, v) store_be(p, 2, v)
#define store_be32(p, v) store_be(p, 4, v)
#define store_be64(p, v) store_be(p, 8, v)

/* Writes 2n lower-case digits, without a NUL. */
static size_t
hex_encode(char *out, const void *in, size_t n)
{
	const uint8_t *b = in;

	for (size_t i = 0; i < n; i++) {
		out[2 * i] = "0123456789abcdef"[b[i] >> 4];
		out[2 * i + 1] = "0123456789abcdef"[b[i] & 15];
	}
	return 2 * n;
}

/* RFC 4648 4 (standard, padded) and 5 (URL-safe, unpadded). */
static const char b64_std[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
static const char b64_url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static size_t
b64_encode(char *out, const void *in, size_t n, bool url)
{
	const char *abc = url ? b64_url : b64_std;
	const uint8_t *b = in;
	size_t o = 0;

	for (size_t i = 0; i < n; i += 3) {
		size_t left = n - i;
		uint32_t v = (uint32_t)b[i] << 16 | (left > 1 ? (uint32_t)b[i + 1] << 8 : 0) | (left > 2 ? b[i + 2] : 0u);

		for (unsigned k = 0; k < 4 && (k <= left || !url); k++)
			out[o++] = k <= left ? abc[v >> (18 - 6 * k) & 63] : '=';
	}
	return o;
}

/* One logfmt line in one write, so that lines of several processes do not mix. The caller never gives
 * a secret, a header value or a body. */
__attribute__((format(printf, 1, 2))) static void
log_line(const char *fmt, ...)
{
	char line[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof line - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n > sizeof line - 2)
		n = sizeof line - 2;
	for (int i = 0; i < n; i++)
		if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
			line[i] = '?';  /* a peer's bytes never begin a line of their own */
	line[n++] = '\n';
	while (write(STDERR_FILENO, line, (size_t)n) < 0 && errno == EINTR)
		;
}

/* ---- secret ----------------------------------------------------------------
 * Every secret byte that outlives one function lies in one arena: locked against swap where the
 * system lets us, left out of core dumps, zeroed in a forked child, between two pages nobody may
 * touch. The last holder's release wipes. Blocks are powers of two (a buddy system) and what is
 * free is told by bits outside the arena, so free memory is zero throughout and holds no link
 * for an overrun to bend. Loop thread only: nothing here is locked against threads. A helper thread may
 * read a block while its job holds a reference. */
#define SECRET_ARENA_MAX  (32u << 20)  /* address space: 64 bodies of 256 KiB, and tokens */
#define SECRET_STEP       (64u << 10)  /* opened (and locked) at a time; an idle worker needs one */
#define SECRET_BLOCK_MIN  32u          /* header and 24 bytes: most API keys take 64 */
#define SECRET_ORDERS     17           /* to 2 MiB: a body of 1 MiB with a secret in it fits */
#define SECRET_MAX        ((2u << 20) - sizeof(struct secret))  /* what the largest block holds */
#define SECRET_SCOPE_MAX  (8u << 20)   /* one request or refresh: a quarter of the arena */
#define SECRET_BLOCKS     (SECRET_ARENA_MAX / SECRET_BLOCK_MIN)

struct secret {
	uint32_t refs;
	uint32_t n;             /* secret_cut alone changes it: the block's size follows from it */
	char p[];
};

/* Blocks are numbered as in a heap: those of an order o are SECRET_BLOCKS >> o and following,
 * the halves of block i are 2i and 2i+1, so its buddy is i^1. A bit is set when that block,
 * whole, is free. */
static struct {
	char *base;                       /* owned, for ever; NULL before secret_init */
	size_t top;                       /* bytes from base that are open; behind it PROT_NONE */
	bool unlocked;                    /* mlock was refused at least once */
	size_t live;                      /* blocks in use */
	uint32_t free[SECRET_ORDERS];     /* free blocks of each order */
	uint32_t low[SECRET_ORDERS];      /* no free block of that order has a smaller number */
	uint64_t bits[2 * SECRET_BLOCKS / 64];
} secret_arena;

static void
secret_mark(uint32_t id, unsigned order, bool is_free)
{
	uint64_t bit = (uint64_t)1 << id % 64;

	if (is_free) {
		secret_arena.bits[id / 64] |= bit;
		secret_arena.free[order]++;
		if (id < secret_arena.low[order])
			secret_arena.low[order] = id;
	} else {
		secret_arena.bits[id / 64] &= ~bit;
		secret_arena.free[order]--;
	}
}

/* Once per process, and after fork: the child's copy would read as zeros (MADV_WIPEONFORK).
 * False: no memory. A refused mlock is no failure, because small machines allow none; `sallyport
 * doctor` tells of it. */
static bool
secret_init(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *p = mmap(NULL, SECRET_ARENA_MAX + 2 * page, PROT_NONE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return false;
	madvise(p, SECRET_ARENA_MAX + 2 * page, MADV_DONTDUMP);
	madvise(p, SECRET_ARENA_MAX + 2 * page, MADV_WIPEONFORK);
	if (secret_arena.base != NULL)  /* else still zero, and not a page of it touched */
		memset(&secret_arena, 0, sizeof secret_arena);
	secret_arena.base = p + page;
	for (unsigned o = 0; o < SECRET_ORDERS; o++)
		secret_arena.low[o] = UINT32_MAX;
	for (uint32_t i = 0; i < SECRET_BLOCKS >> (SECRET_ORDERS - 1); i++)
		secret_mark((SECRET_BLOCKS >> (SECRET_ORDERS - 1)) + i, SECRET_ORDERS - 1, true);
	return true;
}

/* Is all that the arena opened so far locked against swap? */
static bool
secret_locked(void)
{
	return secret_arena.base != NULL && !secret_arena.unlocked;
}

/* The order of the smallest block that holds the struct and n bytes. */
static unsigned
secret_order(size_t n)
{
	unsigned o = 0;

	while ((size_t)SECRET_BLOCK_MIN << o < sizeof(struct secret) + n)
		o++;
	return o;
}

/* Is there a block for n bytes? */
static bool
secret_fits(size_t n)
{
	unsigned o = secret_order(n);

	while (o < SECRET_ORDERS && secret_arena.free[o] == 0)
		o++;
	return o < SECRET_ORDERS;
}

/* Frees a block, and joins it with its buddy as long as that one is free too. */
static void
secret_put_block(uint32_t id, unsigned order)
{
	for (; order < SECRET_ORDERS - 1; order++, id /= 2) {
		uint32_t buddy = id ^ 1;

		if ((secret_arena.bits[buddy / 64] >> buddy % 64 & 1) == 0)
			break;
		secret_mark(buddy, order, false);
	}
	secret_mark(id, order, true);
}

/* n bytes that read as zero, one reference. NULL: too long, or the arena is full. */
static struct secret *
secret_new(size_t n)
{
	unsigned order, o;
	struct secret *s;
	uint32_t id;
	uint64_t w;
	size_t end, more;
	char *top;

	if (!secret_fits(n))
		return NULL;
	order = o = secret_order(n);
	while (secret_arena.free[o] == 0)
		o++;
	id = secret_arena.low[o];
	while ((w = secret_arena.bits[id / 64] >> id % 64) == 0)
		id = (id / 64 + 1) * 64;
	id += (uint32_t)__builtin_ctzll(w);
	secret_mark(id, o, false);
	secret_arena.low[o] = id + 1;
	for (; o > order; id *= 2)
		secret_mark(2 * id + 1, --o, true);
	end = (size_t)(id - (SECRET_BLOCKS >> order)) * SECRET_BLOCK_MIN << order;
	s = (struct secret *)(void *)(secret_arena.base + end);
	end += SECRET_BLOCK_MIN << order;
	if (end > secret_arena.top) {   /* rare, because the lowest free block was taken */
		top = secret_arena.base + secret_arena.top;
		more = (end - secret_arena.top + SECRET_STEP - 1) / SECRET_STEP * SECRET_STEP;
		if (mprotect(top, more, PROT_READ | PROT_WRITE) != 0) {
			secret_put_block(id, order);
			return NULL;
		}
		secret_arena.unlocked |= mlock(top, more) != 0;
		secret_arena.top += more;
	}
	s->refs = 1;
	s->n = (uint32_t)n;
	secret_arena.live++;
	return s;
}

static struct secret *
secret_copy(const void *p, size_t n)
{
	struct secret *s = secret_new(n);

	if (s != NULL && n != 0)
		memcpy(s->p, p, n);
	return s;
}

static struct secret *
secret_ref(struct secret *s)
{
	s->refs++;
	return s;
}

static void
secret_unref(struct secret *s)
{
	unsigned order;
	uint32_t id;

	if (s == NULL || --s->refs != 0)
		return;
	order = secret_order(s->n);
	id = (uint32_t)((size_t)((char *)s - secret_arena.base) / SECRET_BLOCK_MIN >> order);
	wipe(s, sizeof *s + s->n);
	secret_put_block((SECRET_BLOCKS >> order) + id, order);
	secret_arena.live--;
}

static void
secret_drop(struct secret **s)
{
	secret_unref(*s);
	*s = NULL;
}

/* Shortens a secret to n bytes: the rest is wiped, and the halves of its block that it no longer needs
 * are freed. Only before a handle holds the secret, because a handle's scope counts its bytes. */
static void
secret_cut(struct secret *s, size_t n)
{
	unsigned order = secret_order(s->n), want = secret_order(n);
	uint32_t id = (uint32_t)((size_t)((char *)s - secret_arena.base) / SECRET_BLOCK_MIN >> order);

	wipe(s->p + n, s->n - n);
	s->n = (uint32_t)n;
	for (id += SECRET_BLOCKS >> order; order > want; id *= 2)
		secret_mark(2 * id + 1, --order, true);
}

static struct slice
secret_slice(const struct secret *s)
{
	return (struct slice){s->p, s->n};
}

/* -- handles: a struct secret_handle is the userdata that stands for a secret in Lua. A handle made
 * while a task runs is in that task's scope, and is emptied when the task ends, however long Lua keeps
 * the userdata. */
struct secret_scope {
	struct secret_handle *first;    /* borrowed: the collector owns handles */
	size_t bytes;                   /* what they hold together */
	uint64_t owner;                 /* the credential that the task acts for; 0: none yet */
};

struct secret_handle {
	struct secret *s;               /* one reference; NULL: empty, "secret is closed" */
	struct secret_scope *scope;     /* borrowed from the task; NULL: kept */
	uint64_t owner;                 /* of a kept one: the credential it is of; 0: anybody's */
	bool field;                     /* as it was stored or typed, not built by a policy */
	struct secret_handle *next, **link;
};

/* The scope of the task that runs; set by lua_step alone, around each resume. NULL: handles are
 * not bound (commands, and while nothing runs). */
static struct secret_scope *secret_scope_now;

/* Takes the handle out of its scope: no task's end empties it from now on. */
static void
secret_handle_keep(struct secret_handle *h)
{
	if (h->scope == NULL)
		return;
	if (h->s != NULL)
		h->scope->bytes -= h->s->n;
	*h->link = h->next;
	if (h->next != NULL)
		h->next->link = h->link;
	h->scope = NULL;
}

/* May the running task use this handle? Not one of another task or another credential: a policy that
 * keeps a handle in a variable of its own must not send it with the next credential's request. */
static bool
secret_handle_usable(const struct secret_handle *h)
{
	if (secret_scope_now == NULL)
		return true;
	if (h->scope != NULL)
		return h->scope == secret_scope_now;
	return h->owner == 0 || h->owner == secret_scope_now->owner;
}

static void
secret_handle_empty(struct secret_handle *h)
{
	struct secret *s = h->s;

	secret_handle_keep(h);
	h->s = NULL;
	secret_unref(s);
}

/* The task has ended: every handle in its scope is emptied. */
static void
secret_scope_close(struct secret_scope *scope)
{
	while (scope->first != NULL)
		secret_handle_empty(scope->first);
}

/* ---- text ------------------------------------------------------------------
 * One growing, wiped writer for every text that is built. A buffer owns its bytes and never grows
 * past its `max`: the code that makes a buffer says how much a peer may make us keep. A failure is
 * sticky: an addition that does not fit makes the buffer bad, a bad buffer takes nothing more, and
 * buf_ok is asked once, at the end. The bytes of a secret buffer lie in the arena, and
 * buf_take_secret makes a secret of them without a copy. */
struct buf {
	char *p;                /* owned; of a secret buffer, the bytes of a struct secret */
	size_t n, cap, max;     /* bytes in use, allocated, allowed */
	bool bad;               /* an addition did not fit: none is taken from then on */
	bool secret;            /* a struct secret of `cap` bytes holds the bytes */
};

static void
buf_init(struct buf *b, size_t max)
{
	*b = (struct buf){.max = max};
}

/* Did everything fit that was added? */
static bool
buf_ok(const struct buf *b)
{
	return !b->bad;
}

static void
buf_free(struct buf *b)
{
	if (b->secret && b->p != NULL) {
		secret_unref(OWNER(b->p, struct secret, p));
	} else {
		wipe(b->p, b->cap);
		free(b->p);
	}
	*b = (struct buf){.max = b->max, .secret = b->secret};
}

/* Makes room for `more` bytes. Not by realloc: the old block may hold a header with a credential, so it
 * is wiped. False: no room, and the buffer is as before. */
static bool
buf_grow(struct buf *b, size_t more)
{
	struct buf old = *b;
	size_t want = b->n + more, cap = b->cap < 512 ? 512 : b->cap * 2;
	struct secret *s;

	if (b->bad || more > b->max || b->n > b->max - more)
		return false;
	while (cap < want)
		cap *= 2;
	if (b->secret)
		cap = ((size_t)SECRET_BLOCK_MIN << secret_order(want)) - sizeof *s;
	if (cap > b->max)
		cap = b->max;
	if (!b->secret)
		b->p = malloc(cap);
	else
		b->p = (s = secret_new(cap)) != NULL ? s->p : NULL;
	if (b->p == NULL) {
		b->p = old.p;
		return false;
	}
	if (b->n != 0)
		memcpy(b->p, old.p, b->n);
	b->cap = cap;
	buf_free(&old);
	return true;
}

/* Makes room for `more` bytes. False: there is none, and the buffer is not bad: the caller goes on
 * without the addition. */
static inline bool
buf_room(struct buf *b, size_t more)
{
	return (more <= b->cap - b->n && !b->bad) || buf_grow(b, more);
}

/* As buf_room, but a buffer without room becomes bad. Inline: a request asks a hundred times, and
 * nearly always there is room. */
static inline bool
buf_reserve(struct buf *b, size_t more)
{
	if (!buf_room(b, more))
		b->bad = true;
	return !b->bad;
}

static bool
buf_add(struct buf *b, const void *p, size_t n)
{
	if (!buf_reserve(b, n))
		return false;
	if (n != 0)
		memcpy(b->p + b->n, p, n);
	b->n += n;
	return true;
}

/* Pieces that belong together: room is asked for once. */
static bool
buf_join(struct buf *b, const struct slice *piece, size_t n)
{
	size_t all = 0;

	for (size_t i = 0; i < n; i++)
		all += piece[i].n;
	if (!buf_reserve(b, all))
		return false;
	for (size_t i = 0; i < n; i++) {
		if (piece[i].n != 0)
			memcpy(b->p + b->n, piece[i].p, piece[i].n);
		b->n += piece[i].n;
	}
	return true;
}

static bool
buf_adds(struct buf *b, const char *cstr)
{
	return buf_add(b, cstr, strlen(cstr));
}

static bool
buf_addv(struct buf *b, struct slice s)
{
	return buf_add(b, s.p, s.n);
}

__attribute__((format(printf, 2, 3))) static bool
buf_addf(struct buf *b, const char *fmt, ...)
{
	char tmp[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(tmp, sizeof tmp, fmt, ap);
	va_end(ap);
	b->bad |= n < 0 || (size_t)n >= sizeof tmp;
	return buf_add(b, tmp, (size_t)n);
}

/* Empty, and good again. */
static void
buf_clear(struct buf *b)
{
	wipe(b->p, b->n);
	b->n = 0;
	b->bad = false;
}

/* Shortens the text to n bytes. The rest is wiped here, because buf_clear wipes only bytes in use. */
static void
buf_cut(struct buf *b, size_t n)
{
	wipe(b->p + n, b->n - n);
	b->n = n;
}

/* Takes n bytes off the front. */
static void
buf_drop(struct buf *b, size_t n)
{
	if (n == 0)
		return;
	memmove(b->p, b->p + n, b->n - n);
	buf_cut(b, b->n - n);
}

/* Empties a buffer that is used again, and frees its block if that is over `keep` bytes. */
static void
buf_recycle(struct buf *b, size_t keep)
{
	if (b->cap > keep)
		buf_free(b);
	else
		buf_clear(b);
}

/* Decimal, at a twentieth of buf_addf's cost: every request writes several numbers. */
static bool
buf_addu(struct buf *b, uint64_t v)
{
	char tmp[20];
	size_t i = sizeof tmp;

	do
		tmp[--i] = (char)('0' + v % 10);
	while ((v /= 10) != 0);
	return buf_add(b, tmp + i, sizeof tmp - i);
}

/* Adds the rest of the file. NULL, or why not. */
static const char *
buf_read(struct buf *b, int fd)
{
	char tmp[8192];
	ssize_t n;

	while ((n = read(fd, tmp, sizeof tmp)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return strerror(errno);
		if (!buf_add(b, tmp, (size_t)n)) {
			wipe(tmp, sizeof tmp);
			return "too_large";
		}
	}
	wipe(tmp, sizeof tmp);
	return NULL;
}

static struct slice
buf_slice(const struct buf *b)
{
	return (struct slice){b->p, b->n};
}

/* RFC 4648 4, or 5 without padding (RFC 7515 2) */
static bool
buf_base64(struct buf *b, struct slice in, bool url)
{
	if (buf_reserve(b, (in.n + 2) / 3 * 4))
		b->n += b64_encode(b->p + b->n, in.p, in.n, url);
	return buf_ok(b);
}

/* Makes the buffer a secret one: the text that it has moves into the arena. */
static void
buf_make_secret(struct buf *b)
{
	struct buf old = *b;

	if (b->secret)
		return;
	*b = (struct buf){.max = old.max, .bad = old.bad, .secret = true};
	buf_add(b, old.p, old.n);
	buf_free(&old);
}

/* Returns the text as a secret with one reference, and empties the buffer. NULL: the buffer is bad, or
 * the arena is full. */
static struct secret *
buf_take_secret(struct buf *b)
{
	struct secret *s = NULL;

	buf_make_secret(b);
	if (buf_ok(b) && (b->p != NULL || buf_grow(b, 0))) {
		s = OWNER(b->p, struct secret, p);
		secret_cut(s, b->n);
		secret_ref(s);          /* buf_free gives back the buffer's */
	}
	buf_free(b);
	return s;
}

/* -- pools: structs that are used again and again, and begin with a pointer to the next one in the pool. */
struct pool {
	struct pooled { struct pooled *next; } *first; /* owned */
	size_t n;
};

/* NULL: the pool is empty. */
static void *
pool_get(struct pool *p)
{
	struct pooled *s = p->first;

	if (s != NULL) {
		p->first = s->next;
		p->n--;
	}
	return s;
}

/* False: the pool has `max`, and the struct stays the caller's. */
static bool
pool_put(struct pool *p, void *of, size_t max)
{
	struct pooled *s = of;

	if (p->n >= max)
		return false;
	s->next = p->first;
	p->first = s;
	p->n++;
	return true;
}

/* ---- loop ------------------------------------------------------------------
 * The clock, timers, descriptors and work of one process. One thread runs loop_run and owns all that is in
 * this file, but a struct job between submit and done, and what was lent with that job. Descriptors are
 * edge-triggered: a watch remembers that it may be read or written until the kernel says it would block, so
 * that no epoll_ctl is needed while bytes move. Nothing is freed while a batch of events is handed out: an
 * owner of a watch ends in a deferred call. */
#define LOOP_EVENTS 256         /* events of one epoll_wait: bounds how long a batch may be */

static int64_t loop_time;       /* CLOCK_MONOTONIC ms of this turn */

static int64_t
clock_read(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Monotonic ms as of this turn of the loop: deadlines are compared with this. */
static int64_t
clock_now(void)
{
	if (loop_time == 0)
		loop_time = clock_read(CLOCK_MONOTONIC);
	return loop_time;
}

/* What the binary of the tests alone can be told: another time, as seconds on the wall clock and ms since
 * the boot, which leases count; to hold up verify_job_run; and to have no memory for Lua. */
#ifdef SALLYPORT_TEST
#include "tests/hooks.h"
#else
#define hook_clock(which) 0
#define hook_hold() ((void)0)
#define hook_no_memory() false
#endif

/* Unix ms. */
static int64_t
clock_wall_ms(void)
{
	return clock_read(CLOCK_REALTIME) + hook_clock(0) * 1000;
}

static int64_t
clock_wall(void)
{
	return clock_wall_ms() / 1000;
}

/* A wall clock before the build's date was never set (an edge box without a battery). */
static bool
clock_unset(void)
{
	return clock_wall() < (int64_t)BUILD_TIME - 2 * 86400;
}

/* -- timers: a binary heap; a timer knows its slot, 0 when it is not set. */
struct timer {
	int64_t at;             /* monotonic ms */
	size_t slot;            /* place in the heap; 0: not set */
	void (*fire)(struct timer *);
};

static struct timer **timer_heap;       /* owned; [1..timer_n] */
static size_t timer_n, timer_cap;

static void
timer_place(struct timer *t, size_t i)
{
	timer_heap[i] = t;
	t->slot = i;
}

static void
timer_sift(struct timer *t, size_t i)
{
	while (i > 1 && timer_heap[i / 2]->at > t->at) {
		timer_place(timer_heap[i / 2], i);
		i /= 2;
	}
	for (;;) {
		size_t c = i * 2;

		if (c > timer_n)
			break;
		if (c < timer_n && timer_heap[c + 1]->at < timer_heap[c]->at)
			c++;
		if (timer_heap[c]->at >= t->at)
			break;
		timer_place(timer_heap[c], i);
		i = c;
	}
	timer_place(t, i);
}

static void
timer_stop(struct timer *t)
{
	size_t i = t->slot;
	struct timer *last;

	if (i == 0)
		return;
	t->slot = 0;
	last = timer_heap[timer_n--];
	if (last != t)
		timer_sift(last, i);
}

/* A process that cannot get eight bytes for a deadline cannot keep its promises: it ends, and the
 * master starts another. */
static void
timer_set(struct timer *t, int64_t at, void (*fire)(struct timer *))
{
	t->at = at;
	t->fire = fire;
	if (t->slot != 0) {
		timer_sift(t, t->slot);
		return;
	}
	if (timer_n + 1 >= timer_cap) {
		size_t cap = timer_cap == 0 ? 256 : timer_cap * 2;
		struct timer **heap = realloc(timer_heap, cap * sizeof *heap);

		if (heap == NULL)
			abort();
		timer_heap = heap;
		timer_cap = cap;
	}
	timer_sift(t, ++timer_n);
}

/* -- deferred calls: run after the events of this turn, in order. */
struct defer {
	STAILQ_ENTRY(defer) next;
	void (*run)(struct defer *);
	bool queued;
};
STAILQ_HEAD(defers, defer);

static struct defers defer_list = STAILQ_HEAD_INITIALIZER(defer_list);

static void
loop_defer(struct defer *d, void (*run)(struct defer *))
{
	d->run = run;
	if (!d->queued)
		STAILQ_INSERT_TAIL(&defer_list, d, next);
	d->queued = true;
}

/* Takes a deferred call back, because its owner is freed while the call is queued. */
static void
loop_undefer(struct defer *d)
{
	if (d->queued)
		STAILQ_REMOVE(&defer_list, d, defer, next);
	d->queued = false;
}

/* Runs the calls that were queued when this began. A call that one of them queues waits for the next
 * turn, so that sockets are served between two slices of long work. */
static void
loop_run_deferred(void)
{
	struct defer end, *d;

	STAILQ_INSERT_TAIL(&defer_list, &end, next);
	while ((d = STAILQ_FIRST(&defer_list)) != &end) {
		STAILQ_REMOVE_HEAD(&defer_list, next);
		d->queued = false;
		d->run(d);
	}
	STAILQ_REMOVE_HEAD(&defer_list, next);
}

/* Frees a struct that begins with its defer. */
static void
defer_free(struct defer *d)
{
	free(d);
}

/* -- descriptors: the owner of a watch is called through `ready` after its flags have changed. */
struct watch {
	int fd;                 /* owned by whoever holds the watch; -1: none */
	bool readable, writable; /* until the kernel says it would block */
	bool hup;               /* the peer ended its side: reading will meet the end */
	void (*ready)(struct watch *);
};

static int loop_fd = -1;        /* epoll */

static bool
watch_add(struct watch *w, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = w};

	return epoll_ctl(loop_fd, EPOLL_CTL_ADD, w->fd, &ev) == 0;
}

/* Removes the descriptor from epoll explicitly: a process that inherited it may hold it open, and
 * close(2) alone would then leave it registered (epoll(7)). */
static void
watch_close(struct watch *w)
{
	if (w->fd < 0)
		return;
	epoll_ctl(loop_fd, EPOLL_CTL_DEL, w->fd, NULL);
	close(w->fd);
	w->fd = -1;
	w->readable = w->writable = false;
}

/* -- jobs: what cannot be polled, or would hold up the loop. A lane runs the jobs of one owner in order
 * of submission, and those of several owners in turns: an agent with a thousand jobs holds up no other.
 * Name look-ups have threads of their own, so that a slow name server holds up no token. */
enum job_lane { JOB_READ, JOB_STORE, JOB_RESOLVE, JOB_VERIFY, JOB_HASH, JOB_LANES };
static const unsigned job_threads[JOB_LANES] = {
	[JOB_STORE] = 1,        /* LMDB has one writer anyway */
	[JOB_RESOLVE] = 4,      /* getaddrinfo may take seconds: one dead zone must not stop the others */
	[JOB_VERIFY] = 1,       /* certificates of upstreams: more would take the processor from the loops */
	[JOB_READ] = 1,         /* large bodies: what is written to make one slow holds up the large alone */
	[JOB_HASH] = 1,         /* passwords: half a second each */
};
#define JOB_STACK (256 * 1024)  /* glibc's resolver needs some 64 KiB of it, BearSSL less */

struct job {
	struct defer defer;             /* its place in a lane, then among what is done */
	enum job_lane lane;
	uint32_t owner;                 /* text_hash of an agent's name; 0: our own */
	uint64_t turn;                  /* one more than the owner's job before it */
	void (*run)(struct job *);      /* a helper thread; touches only what the job has, or was lent */
	void (*done)(struct defer *);   /* loop thread; frees the job */
};

struct job_queue {
	struct defers list;             /* under job_lock; in order of their turns */
	uint64_t turn;                  /* under job_lock; of the job that began last */
	pthread_cond_t ready;
};

static pthread_mutex_t job_lock = PTHREAD_MUTEX_INITIALIZER;
static struct job_queue job_queues[JOB_LANES];
static struct defers job_done = STAILQ_HEAD_INITIALIZER(job_done); /* under job_lock: have run */
static struct watch job_watch = {.fd = -1};                     /* eventfd: something is done */
static bool job_threaded;
static pthread_attr_t job_attr; /* of threads that nobody waits for */

/* Has `run` called for it by the loop: for other threads. */
static void
job_tell(struct defer *d, void (*run)(struct defer *))
{
	const uint64_t one = 1;

	*d = (struct defer){.run = run, .queued = true};
	pthread_mutex_lock(&job_lock);
	STAILQ_INSERT_TAIL(&job_done, d, next);
	pthread_mutex_unlock(&job_lock);
	if (write(job_watch.fd, &one, sizeof one) < 0 && errno != EAGAIN)
		abort();
}

static void *
job_thread(void *queue)
{
	struct job_queue *q = queue;

	pthread_mutex_lock(&job_lock);
	for (;;) {
		struct defer *d;

		while ((d = STAILQ_FIRST(&q->list)) == NULL)
			pthread_cond_wait(&q->ready, &job_lock);
		STAILQ_REMOVE_HEAD(&q->list, next);
		q->turn = OWNER(d, struct job, defer)->turn;
		pthread_mutex_unlock(&job_lock);
		OWNER(d, struct job, defer)->run(OWNER(d, struct job, defer));
		job_tell(d, d->run);
		pthread_mutex_lock(&job_lock);
	}
	return NULL;
}

static void
job_collect(struct watch *w)
{
	uint64_t n;

	w->readable = false;
	if (read(w->fd, &n, sizeof n) < 0 && errno != EAGAIN)
		return;
	pthread_mutex_lock(&job_lock);
	STAILQ_CONCAT(&defer_list, &job_done);
	pthread_mutex_unlock(&job_lock);
}

/* A command has no helper thread: its jobs run at once, and are done in the next turn. */
static void
job_submit(struct job *j)
{
	struct job_queue *q = &job_queues[j->lane];
	struct defer *d, *before = NULL;

	j->defer = (struct defer){.run = j->done, .queued = true};
	if (!job_threaded) {
		j->run(j);
		STAILQ_INSERT_TAIL(&defer_list, &j->defer, next);
		return;
	}
	pthread_mutex_lock(&job_lock);
	j->turn = q->turn;
	STAILQ_FOREACH(d, &q->list, next) {
		const struct job *other = OWNER(d, struct job, defer);

		if (other->owner == j->owner)
			j->turn = other->turn + 1;
		if (other->turn <= j->turn)
			before = d;
	}
	if (before != NULL)
		STAILQ_INSERT_AFTER(&q->list, before, &j->defer, next);
	else
		STAILQ_INSERT_HEAD(&q->list, &j->defer, next);
	pthread_cond_signal(&q->ready);
	pthread_mutex_unlock(&job_lock);
}

/* Takes a job back that has not begun: `done` is not called. False: it has begun, and `done` will be. */
static bool
job_cancel(struct job *j)
{
	struct defer *d;

	pthread_mutex_lock(&job_lock);
	STAILQ_FOREACH(d, &job_queues[j->lane].list, next)
		if (d == &j->defer)
			break;
	if (d != NULL)
		STAILQ_REMOVE(&job_queues[j->lane].list, d, defer, next);
	pthread_mutex_unlock(&job_lock);
	return d != NULL;
}

/* -- the loop itself. `threaded`: a worker, with helper threads; a command does its jobs itself. */
static bool
loop_init(bool threaded)
{
	pthread_t thread;
	sigset_t all, old;
	bool ok = true;

	loop_time = clock_read(CLOCK_MONOTONIC);
	if ((loop_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
		return false;
	job_threaded = threaded;
	if (!threaded)
		return true;
	job_watch.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	job_watch.ready = job_collect;
	if (job_watch.fd < 0 || !watch_add(&job_watch, EPOLLIN | EPOLLET))
		return false;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);       /* signals are the loop's */
	pthread_attr_init(&job_attr);
	pthread_attr_setdetachstate(&job_attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&job_attr, JOB_STACK);
	for (int lane = 0; lane < JOB_LANES; lane++) {
		STAILQ_INIT(&job_queues[lane].list);
		pthread_cond_init(&job_queues[lane].ready, NULL);
		for (unsigned i = 0; i < job_threads[lane]; i++)
			ok = pthread_create(&thread, &job_attr, job_thread, &job_queues[lane]) == 0 && ok;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return ok;
}

/* The only epoll_wait. Returns when *stop is set. */
static void
loop_run(const bool *stop)
{
	struct epoll_event ev[LOOP_EVENTS];

	while (!*stop) {
		int64_t wait = STAILQ_EMPTY(&defer_list) ? -1 : 0;
		int n;

		if (wait < 0 && timer_n != 0) {
			wait = timer_heap[1]->at - clock_read(CLOCK_MONOTONIC);
			wait = wait < 0 ? 0 : wait > 60000 ? 60000 : wait;
		}
		n = epoll_wait(loop_fd, ev, LOOP_EVENTS, (int)wait);
		loop_time = clock_read(CLOCK_MONOTONIC);
		for (int i = 0; i < n; i++) {
			struct watch *w = ev[i].data.ptr;

			if (w->fd < 0)
				continue;       /* closed by an earlier event of this batch */
			if (ev[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP))
				w->readable = true;
			if (ev[i].events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
				w->writable = true;
			if (ev[i].events & (EPOLLHUP | EPOLLERR | EPOLLRDHUP))
				w->hup = true;
			w->ready(w);
		}
		while (timer_n != 0 && timer_heap[1]->at <= loop_time) {
			struct timer *t = timer_heap[1];

			timer_stop(t);
			t->fire(t);
		}
		loop_run_deferred();
	}
}

/* ---- organs ----------------------------------------------------------------
 * Every type, variable and function of Parts II and III that Part I uses, by the section that has it.
 * A first reading may take each group at the word of its line. Invariant: no function here waits for a
 * peer. l_fail and l_answer may raise a Lua error (longjmp): they are for bindings. */
#define REQ_WHO_MAX 69          /* 64 hexadecimal digits; or four bytes and a name ("key:NAME", at the door) */
struct agent;           /* what one agent holds (req) */
struct conn;            /* a client's connection (req) */
struct filter;          /* rewrites a body as it streams (flow) */
struct flow;            /* bytes from one end to another (flow) */
struct h2;              /* a session of HTTP/2 (h2) */
struct handover;        /* listeners of another process, and what they need (handover) */
struct http_head;       /* a parsed head (http) */
struct kept;            /* a decision that holds for later requests (kept) */
struct mcp;             /* what a caller may see of an MCP server (filter: mcp) */
struct leaf;            /* a certificate that we made for a host (trust) */
struct peer;            /* one end of a connection (peer) */
struct req;             /* a request (req) */
struct seal;            /* what an answer's members become that are secrets (seal) */
struct session_table;   /* TLS sessions (session) */
struct stream;          /* a request and its answer in HTTP/2 (h2) */
struct subst;           /* a credential's rows: placeholders and their secrets (subst) */
struct scrub;           /* attached secrets, which an answer must not repeat (scrub) */
struct task;            /* a coroutine on the loop (task) */
struct tls;             /* an engine, ours to an agent or an upstream (tls) */
struct tls_ident;       /* a credential's certificate and roots (trust) */
struct tls_trust;       /* a set of roots (trust) */
struct tls_verify;      /* the check of one server's chain during its handshake (trust) */
struct upstream;        /* a connection that we dialled (peer) */

/* -- addr: IP addresses as bytes. addr_guard answers NULL, or why no request may be sent there. */
#define ADDR_TEXT_MAX 46        /* INET6_ADDRSTRLEN: the longest text of an address, and its NUL */

struct addr {
	uint8_t b[16];          /* network order; IPv4 lies in b[0..3], the rest is zero */
	bool v4;
};

struct cidr {
	struct addr a;          /* no bit set behind the prefix */
	uint8_t bits;           /* length of the prefix */
};

static bool addr_parse(struct slice in, struct addr *out);
static bool addr_of_socket(const struct sockaddr *sa, struct addr *a);
static size_t addr_format(const struct addr *a, char out[ADDR_TEXT_MAX]);
static struct addr addr_unmapped(const struct addr *a);
static bool cidr_contains(const struct cidr *c, const struct addr *a);
static const char *addr_guard(const struct addr *a);

/* -- codec: the value of a hexadecimal digit, or -1. */
static int hex_digit(char c);

/* -- field: what becomes of a header field, by its name: bits of enum hdr_rule (section http). */
static uint16_t http_field_rule(struct slice name);

/* -- uri: a host in its one spelling (NULL, or why it has none), and the user and password of Basic. */
static const char *http_canonical_host(struct slice in, char out[256], bool *is_ip);
static bool http_basic(struct slice value, struct buf *plain);

/* -- session: TLS sessions for resumption (RFC 5246 7.3), in a table that processes may share. None waits. */
static struct session_table *session_table_new(size_t n, int sharing);
static void session_table_lock(struct session_table *t);
static bool session_find(struct session_table *t, const uint8_t name[32],
    br_ssl_session_parameters *p);
static void session_put(struct session_table *t, const uint8_t name[32],
    const br_ssl_session_parameters *p, uint32_t life);
static void session_drop(struct session_table *t, const uint8_t name[32]);
static void session_sweep(struct session_table *t);

/* -- trust: the CA of this installation, and the leaf certificate of a host that it signs for agents. */
static bool tls_ca_loaded;

static bool leaf_show(struct leaf **l, const char *host, br_ssl_server_context *cc);
static void leaf_unref(struct leaf *l);

/* -- trust: what one credential brings to TLS with its own hosts. The tag is a hash of all of it: it keeps
 * connections and sessions apart; without an ident it is empty. */
static struct tls_ident *tls_ident_ref(struct tls_ident *id);
static void tls_ident_unref(struct tls_ident *id);
static struct slice tls_ident_tag(const struct tls_ident *id);
static bool tls_ident_show(const struct tls_ident *id, br_ssl_server_context *server, br_ssl_client_context *client);

/* -- trust: verification of an upstream's certificate chain, and why a handshake failed. verify_step makes
 * a step of the engine, or lends the engine to a helper thread, which makes it: verify_take_back takes it
 * back where no thread has begun. */
static struct tls_verify *verify_new(struct tls_trust *trust, struct tls_ident *ident,
    const char *host, bool *resumed, br_ssl_client_context *cc);
static void verify_free(struct tls_verify *v);
static void verify_step(struct tls *t, void (*moved)(br_ssl_engine_context *, size_t), size_t n);
static bool verify_take_back(struct tls_verify *v);
static bool verify_offer_session(const struct tls_verify *v, br_ssl_engine_context *eng, int port,
    struct slice tag, uint8_t name[32]);
static size_t host_ip(const char *host, uint8_t ip[16]);
static const char *tls_reason(const struct tls *t, int err);

/* -- tls: openssl: the engine for upstreams that BearSSL cannot speak with, and for agents where that is asked for.
 * ossl_load: is it there? ossl_open makes an end of what tls_connect or tls_accept has made; the functions named as in
 * `tls` are those of such an end. ossl_wanted: is that host known to need it? ossl_drop_cert: of a leaf. */
enum tls_engine { ENGINE_AUTO, ENGINE_BEARSSL, ENGINE_OPENSSL };
static enum tls_engine tls_engine;      /* `upstream-tls` */
static enum tls_engine tls_engine_agents = ENGINE_BEARSSL;      /* `agent-tls` */
#define X509_OTHER BR_ERR_X509_TIME_UNKNOWN     /* of a certificate: see cert_algs. BearSSL's decoder never says so */
static bool ossl_load(void);
static bool ossl_open(struct tls *t);
static void ossl_free(void *ssl);
static void ossl_drop_cert(void *x509);
static void ossl_step(struct tls *t);
static size_t ossl_feed(struct tls *t, const void *p, size_t n);
static size_t ossl_drain(struct tls *t, void *out, size_t n);
static size_t ossl_write(struct tls *t, const void *p, size_t n);
static void ossl_seal(struct tls *t);
static void ossl_shutdown(struct tls *t);
static void ossl_sweep(void);
static bool ossl_wanted(const char *host, uint16_t port, bool learn);

/* -- trust: SHA-256 of pieces joined, and of one text in hexadecimal. */
static void tls_sha256_join(const struct slice *piece, size_t n, uint8_t out[32]);
static void tls_sha256_hex(struct slice s, char out[64]);

/* -- via: `upstream-proxy`, another proxy on the way to upstreams; an empty host is none. via_begin asks
 * it for a tunnel, via_advance reads its answer, via_failf says why there is none. */
static struct {
	char host[256];                 /* canonical */
	uint16_t port;
	struct secret *authorization;   /* owned; base64 of user and password; NULL: nothing is shown */
	unsigned epoch;                 /* counts the changes of the above: keeps pooled connections apart */
} via = {.epoch = 1};                   /* 0 stands for none */

static void via_begin(struct upstream *u);
static void via_advance(struct upstream *u);
static void via_failf(struct upstream *u, const char *fmt, const char *why);

/* -- json: appends `name`, which brings its punctuation, and the value as a JSON string, in which bytes
 * that are no UTF-8 become U+FFFD; nothing if the value is empty. */
static void json_put_member(struct buf *b, struct slice name, struct slice value);

/* -- subst: a struct subst replaces placeholders by secrets where a credential's rows say so. A struct
 * scrub lists what was attached, so that an answer repeats the placeholder and not the secret. */
static void subst_free(struct subst *s);
static void scrub_free(struct scrub *s);
static bool scrub_in(struct scrub *s, struct slice in);
static bool scrub_put(struct scrub *s, struct slice in, struct buf *out);

/* -- filter: ws: a WebSocket's handshake, and a filter that applies the rows to its messages, where one is meant
 * for them. filter_ws_attach is false where there is no memory. */
static bool websocket_accepted(struct slice key, const struct http_head *answer);
static bool filter_ws_attach(struct flow *f, const struct subst *s);

/* Which bodies of answers are searched; heads always are. SCRUB_TEXT: texts, and others of up to SCRUB_ANY_MAX. */
enum scrub_mode { SCRUB_TEXT, SCRUB_HEAD, SCRUB_OFF, SCRUB_ALL };

/* What was found in the answer of one request. */
struct scrub_tally {
	uint32_t hits;
	bool counted;           /* the request is in the limit's count */
	bool over;              /* it is one too many */
	bool unread;            /* it has a coding that cannot be searched, should the search fail */
	bool free;              /* it need not be: SCRUB_OFF */
};

/* What becomes of an answer's body. SCRUB_STREAMS: a filter takes secrets out. SCRUB_HELD: scrub_body does,
 * once it is whole. SCRUB_FAILS: there is no memory to search it. */
enum scrub_way { SCRUB_PASSES, SCRUB_STREAMS, SCRUB_HELD, SCRUB_FAILS };
static enum scrub_way scrub_begin(struct scrub *s, const struct http_head *h, int mode, struct scrub_tally *tally,
    size_t *share, struct flow *f);
static bool scrub_body(struct scrub *s, struct buf *body, struct scrub_tally *tally);
static bool scrub_note(const struct scrub *s, struct scrub_tally *t);
static bool scrub_init(void);
static bool count_init(void);
static const struct filter_fault *scrub_fault(const struct scrub_tally *t);

/* -- seal: an answer is held whole and its secrets are sealed. seal_begin looks at its head alone; seal_answer edits
 * head and held body, whose end was `io`; false: seal_fault tells why neither may go on. */
static enum scrub_way seal_begin(struct req *r, const struct http_head *h);
static bool seal_whole(struct req *r, const struct http_head *h);
static bool seal_answer(struct req *r, struct http_head *h, int io);
static const struct filter_fault *seal_fault(struct req *r);
static void seal_free(struct seal *s);

/* -- filter: mcp: what lists show, and whose ids these are. mcp_begin attaches what an answer's flow needs, or says that
 * the body is held; mcp_answer edits head and held body, whose end was `io`; false: mcp_fault. */
static const struct filter_fault *mcp_fault(void);
static enum scrub_way mcp_begin(struct req *r, struct http_head *h);
static bool mcp_answer(struct req *r, struct http_head *h, int io);
static void mcp_free(struct mcp *m);

/* -- agent: counts of an agent's connections and requests. agent_put frees an agent that has none,
 * agent_over tells one with more connections than its share, req_unclaim takes a request off its counts. */
static void agent_put(struct agent *a);
static bool agent_over(const struct agent *a);
static void req_unclaim(struct req *r);

/* -- door: TLS to the proxy itself. Below a tunnel's TLS it is a peer of its own, `under`, which is the
 * wire of the inner one: bytes are read and sent as by read(2) and send(2). door_tls is NULL where there
 * is no certificate. */
static struct tls *door_tls(const struct conn *c);
static bool under_begin(struct peer *p);
static ssize_t under_read(struct peer *p, char *out, size_t n);
static ssize_t under_send(struct peer *p, const char *data, size_t n);
static int under_flush(struct peer *p);         /* enum io */

/* -- door: a captured connection. door_capture finds the address that the client dialled, which is c->host
 * until a name is found. door_step_name looks for that in the first bytes, which it leaves on the wire,
 * and goes on with conn_begin_decide. */
static void door_capture(struct conn *c);
static bool door_step_name(struct conn *c);

/* -- door: who is at a connection's other end by the way it came. door_name writes that as a text, which
 * stands where a token's hash would. SOCKS5: socks_take_head goes through its messages, and leaves a
 * CONNECT where a head is expected; socks_answer is the reply that stands for one of HTTP. */
enum socks { SOCKS_HELLO = 1, SOCKS_PASSWORD, SOCKS_REQUEST, SOCKS_DNS };
static bool socks_take_head(struct conn *c, bool *whole);
static void door_answer(struct conn *c, struct buf *b);
static void door_name(const struct conn *c, char out[REQ_WHO_MAX]);

/* -- handover: listeners that another process handed over on the control socket. handover_read is read(2) there,
 * and takes descriptors. Every connection comes and leaves. */
static void handover_came(struct conn *c);
static void handover_left(struct conn *c);
static ssize_t handover_read(struct handover *h, int fd, char *out, size_t n);

/* -- h2: HTTP/2. h2_step is the step of an agent's connection. Each stream is the wire of another peer, a conn's or an
 * upstream's: stream_read is read(2) there, stream_flush sends what waits, h2_leave ends a stream, or a session. h2_join
 * makes such an upstream for a request, from one that is open and offered HTTP/2: that one itself where its server chose
 * HTTP/1.1; NULL: no memory. h2_find: an open one of that key that takes one more stream, or one to wait for (`leads`).
 * h2_settled: what waits for that one goes on; `alone`: and until HTTP/2 is seen there, nobody waits for its like. */
#ifndef SALLYPORT_LEAN
#define H2_BUILT true
static bool h2_step(struct conn *c);
static struct upstream *h2_find(const struct req *r, const char *key);
static void h2_settled(struct upstream *u, bool alone);
static struct upstream *h2_join(struct req *r, struct upstream *u);
static ssize_t stream_read(struct peer *p, char *out, size_t n);
static int stream_flush(struct peer *p);        /* enum io */
static void h2_leave(struct peer *p);
static struct peer *h2_wire(struct peer *p);    /* itself, or what carries the stream that it is */
static void grpc_fail(struct req *r, struct slice message, struct slice hint); /* to a gRPC client, in its own terms */
#else                                           /* no session begins */
#define H2_BUILT false
#define h2_step conn_step_linger
#define h2_find(r, key) NULL
#define h2_settled(u, alone) ((void)(u))
#define h2_join(r, u) (u)
#define stream_read(p, out, n) (-1)
#define stream_flush(p) IO_ERR
#define h2_leave(p) ((void)(p))
#define h2_wire(p) (p)
#define grpc_fail(r, message, hint) ((void)(r))
#endif

/* -- store: LMDB with sealed values, and the lock files beside it. store_open_serve opens a worker's store;
 * where it is false the log has the reason. */
static bool store_open_serve(const char *home);
static void store_close(void);
static void store_read_reset(void);
static void store_check_readers(void);
/* -- table: the newest config generation that any worker has seen, shared by all; NULL in commands. */
static _Atomic uint64_t *table_newest;

/* -- reqlog: the log's records, which go down a pipe to the one process that writes the file. The master
 * opens the pipe and keeps that process alive. reqlog_note: `what`, "client_tls" or "not_http", ended a
 * connection before a request. */

/* How many bytes one agent has added to the queue since the queue was last empty. `turn` is the value of
 * reqlog.turn then: with an older one n counts as 0. */
struct reqlog_share {
	unsigned turn;
	size_t n;
};

static void reqlog_request(struct req *r);
static void reqlog_note(struct conn *c, const char *what, const char *why);
static void reqlog_flush(struct timer *t);
static void reqlog_drain(void);

/* -- embed: lua_import answers a registry reference to a function of a module in lua/, or LUA_NOREF;
 * embed_forget frees the unpacked text of modules. */
static int lua_import(const char *module, const char *fn);
static void embed_forget(void);

/* -- lua: makes lua_main, sandbox and bindings included. Between lua_allow and lua_allow_end a task runs within an
 * allowance: of memory, and while a policy runs also of instructions and time. */
static lua_State *lua_open_state(bool worker);
static void lua_close_state(void);
static void lua_allow(const struct task *t);
static void lua_allow_end(void);

/* -- kept: decides a request as an earlier one that is like it, without Lua. */
static bool kept_again(struct req *r, int *ask);
static void kept_unref(struct kept *k);

/* -- bind: values: a failed task's message. */
static const char *l_message(lua_State *co);

/* -- bind: request: starts the task that decides a request, and tells Lua of the request's answer.
 * The entries are functions of lua/pipeline.lua, lua/answers.lua and others (req_import, which finds them). */
enum req_entry { ENTRY_CONNECT, ENTRY_REQUEST, ENTRY_ANSWER, ENTRY_REJUDGE, ENTRY_HELLO, ENTRY_KNOWS, ENTRY_SOCKS,
	ENTRY_HANDOVER, ENTRY_ENDED, ENTRY_JUDGE, ENTRY_HEARD, ENTRY_READING };

static bool req_import(void);
static bool req_start(struct req *r, enum req_entry entry, int ask);
static void req_stop(struct req *r);
static bool req_wake_body(struct req *r);
static void req_tell_answer(const struct req *r, const struct http_head *h);
static bool req_judge_answer(struct req *r, const struct http_head *h);
static void req_tell_end(struct req *r);
static bool conn_rejudge(void);
static bool lua_ask(enum req_entry entry, const char *what, lua_Integer id, struct slice in, struct buf *out);

/* -- bind: host: the bound on connections that follows from `memory`, and detached tasks. */
static unsigned host_workers = 1;       /* they share what `memory` allows */
static unsigned spawn_running;          /* detached tasks: a worker that drains waits for them */

static void conn_bound(uint64_t memory);

/* ---- net -------------------------------------------------------------------
 * Listening, resolving, dialling. A dial resolves first, judges every address, and connects to the
 * very bytes it judged: a name that changes between check and dial changes nothing. Its owner frees
 * it by net_dial_cancel or on `done`, whichever comes first. */
#define NET_ADDRS_MAX 16        /* addresses of one name that are looked at */
#define NET_LISTENERS_MAX 18    /* 16 that are named, the control socket, and the page's behind it */
#define NET_NAME_MAX (sizeof(struct sockaddr_un) + 8)
#define NET_CIDRS_MAX 16        /* of one credential or domain entry */
#define NET_CONNECT_TO_MAX (1u << 20) /* bytes of that setting: some 2,000 of the longest */
#define NET_DIAL_EACH_MS 3000   /* one address of several: a dead one leaves time for the next */
#define NET_OWN "one of Sallyport's own listeners"

struct endpoint {
	struct addr addr;
	uint16_t port;
};

/* Who is expected there: agents, the world at the door, operators at the page. Each kind has processes
 * of its own. */
enum listener_kind { LISTEN_PROXY, LISTEN_GATEWAY, LISTEN_PAGE, LISTEN_KINDS };

struct listener {
	struct watch watch;
	struct endpoint at;     /* as bound: port 0 has become a number; a Unix socket keeps it */
	enum listener_kind kind;
	bool tls;               /* from the first byte, with the operator's certificate for that kind */
	bool captures;          /* connections that the kernel redirected: the name in them says where to */
	bool control;           /* for commands: HTTP, and descriptors beside it */
	bool dns;               /* DNS over TCP (RFC 7766) */
	struct handover *over;  /* what it was handed over with; NULL: it is our own */
	char host[256];         /* its name, as in the certificate; empty: the address that was dialled */
	char agent[65];         /* whose all its connections are, whatever they say; empty: nobody's */
};

static int64_t net_dial_ms = 10000;     /* `dial-timeout`: all addresses together */

/* What the operator opened for the whole process. */
static struct {
	struct listener listeners[NET_LISTENERS_MAX];
	size_t nlisteners, several;     /* several: for agents or the world */
	struct cidr allow[NET_CIDRS_MAX];
	size_t nallow;
	/* owned; `connect-to`, to dial elsewhere as in curl: "HOST PORT TARGET PORT\n" each, of which the first that fits
	 * counts; what is empty is any, or the same. The operator's own word, so the guard does not judge it. */
	struct buf to;
	enum listener_kind kind;        /* whom this process serves */
	struct cidr trusted[NET_CIDRS_MAX];     /* `trusted-proxy`: who may speak plain HTTP to the door */
	size_t ntrusted;
} net = {.to.max = NET_CONNECT_TO_MAX};

static socklen_t
net_sockaddr(const struct endpoint *e, struct sockaddr_storage *ss)
{
	struct sockaddr_in *in = (struct sockaddr_in *)ss;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;
	bool v4 = e->addr.v4;

	_Static_assert(offsetof(struct sockaddr_in, sin_port) == offsetof(struct sockaddr_in6, sin6_port),
	    "a port lies in one place");
	memset(ss, 0, sizeof *ss);
	ss->ss_family = v4 ? AF_INET : AF_INET6;
	in->sin_port = htons(e->port);
	memcpy(v4 ? (void *)&in->sin_addr : (void *)&in6->sin6_addr, e->addr.b, v4 ? 4 : 16);
	return v4 ? sizeof *in : sizeof *in6;
}

static socklen_t
net_unix(const char *path, struct sockaddr_storage *ss)
{
	struct sockaddr_un *un = (struct sockaddr_un *)ss;

	memset(ss, 0, sizeof *ss);
	un->sun_family = AF_UNIX;
	text_copy(un->sun_path, sizeof un->sun_path, path);
	return sizeof *un;
}

static bool
net_endpoint(const struct sockaddr *sa, struct endpoint *e)
{
	bool ok = addr_of_socket(sa, &e->addr);

	e->port = ok ? ntohs(((const struct sockaddr_in *)sa)->sin_port) : 0;
	return ok;
}

static size_t
net_format(const struct endpoint *e, char out[64])
{
	char text[ADDR_TEXT_MAX];
	struct buf b = {.p = out, .cap = 64, .max = 64};

	buf_adds(&b, e->addr.v4 ? "" : "[");
	buf_add(&b, text, addr_format(&e->addr, text));
	buf_adds(&b, e->addr.v4 ? ":" : "]:");
	buf_addu(&b, e->port);
	return b.n;
}

/* Our end of a connection, or the client's; port 0: that has gone, or the socket is a Unix one. A client
 * that came by IPv4 to a listener for both is one of IPv4. */
static struct endpoint
net_end(int fd, bool ours)
{
	struct sockaddr_storage ss = {.ss_family = AF_UNSPEC};
	socklen_t len = sizeof ss;
	struct endpoint e;

	(ours ? getsockname : getpeername)(fd, (struct sockaddr *)&ss, &len);
	net_endpoint((struct sockaddr *)&ss, &e);
	e.addr = addr_unmapped(&e.addr);
	return e;
}

/* The address that a socket is bound to, as records and commands show it; 0: it has none. */
static size_t
net_name(int fd, char out[NET_NAME_MAX])
{
	struct sockaddr_storage ss = {.ss_family = AF_UNSPEC};
	socklen_t len = sizeof ss;
	struct endpoint e;

	getsockname(fd, (struct sockaddr *)&ss, &len);
	if (ss.ss_family == AF_UNIX)
		return (size_t)snprintf(out, NET_NAME_MAX, "unix:%s", ((struct sockaddr_un *)&ss)->sun_path);
	if (!net_endpoint((struct sockaddr *)&ss, &e))
		return 0;
	e.addr = addr_unmapped(&e.addr);
	return net_format(&e, out);
}

/* Latency over the last few bytes of throughput: a TLS handshake's flights meet delayed
 * acknowledgements otherwise (44 ms instead of under 10). */
static void
net_nodelay(int fd)
{
	const int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void
net_keepalive(int fd)
{
	const int one = 1, idle = 60, every = 20, tries = 3;

	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof every);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &tries, sizeof tries);
}

/* Our own listeners are refused whatever the guard was told: a request that came back to us would
 * loop, and an agent could reach another agent's endpoints under our address. */
static bool
net_is_own_listener(const struct endpoint *e)
{
	struct endpoint own = {.addr = addr_unmapped(&e->addr)};
	struct sockaddr_storage ss;
	socklen_t len = net_sockaddr(&own, &ss);
	size_t i = 0;
	bool local;
	int fd;

	while (i < net.nlisteners && (e->port == 0 || net.listeners[i].at.port != e->port))
		i++;
	/* an address is this machine's if a socket can be bound to it */
	if (i == net.nlisteners || (fd = socket(ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0)) < 0)
		return false;
	local = bind(fd, (struct sockaddr *)&ss, len) == 0;
	close(fd);
	return local;
}

static bool
net_in(const struct cidr *list, size_t n, const struct addr *a)
{
	for (size_t i = 0; i < n; i++)
		if (cidr_contains(&list[i], a))
			return true;
	return false;
}

/* NULL: may be dialled. `extra`: the CIDRs of the credential or domain entry that decided. */
static const char *
net_guard(const struct endpoint *e, const struct cidr *extra, size_t nextra)
{
	const char *why;

	if (net_is_own_listener(e))
		return NET_OWN;
	if ((why = addr_guard(&e->addr)) == NULL)
		return NULL;
	return net_in(net.allow, net.nallow, &e->addr) || net_in(extra, nextra, &e->addr) ? NULL : why;
}

/* -- resolve: getaddrinfo on a helper thread. The job outlives a dial that gave up on it. */
struct resolve {
	struct job job;
	char host[256];
	uint16_t port;
	struct endpoint at[NET_ADDRS_MAX];
	size_t n;
	int err;                /* EAI_* */
	struct dial *dial;      /* borrowed; NULL once the dial is gone */
};

static void
resolve_run(struct job *j)
{
	struct resolve *r = (struct resolve *)j;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG}, *list = NULL;

	r->err = getaddrinfo(r->host, NULL, &hints, &list);
	for (struct addrinfo *a = list; a != NULL && r->n < NET_ADDRS_MAX; a = a->ai_next) {
		if (net_endpoint(a->ai_addr, &r->at[r->n]))
			r->at[r->n++].port = r->port;
	}
	if (list != NULL)
		freeaddrinfo(list);
}

/* -- dial: resolve, judge all addresses, connect to one after the other. The struct lies in its owner,
 * which frees it only after net_dial_cancel or once `done` was called; `done` is called once. */
struct dial {
	struct watch watch;
	struct timer timer;
	struct resolve *resolve;        /* borrowed from the job queue while it runs */
	struct endpoint at[NET_ADDRS_MAX];
	size_t n, next;                 /* addresses; the one to try next */
	int64_t deadline;
	struct cidr allow[NET_CIDRS_MAX];
	size_t nallow;
	bool guarded;                   /* false for what the operator named: a connect-to target, the upstream proxy */
	const char *path;               /* borrowed from the owner: a Unix socket in place of the host; or NULL */
	uint32_t owner;                 /* whose it is (struct job) */
	const char *last;               /* static or strerror's: why the last address failed */
	/* fd >= 0: connected, owned by the callee. Else code and why (static). */
	void (*done)(struct dial *, int fd, const char *code, const char *why);
};

static void dial_next(struct dial *);       /* dial_timeout and dial_ready call it, and it sets them */

/* The owner goes away: `done` is never called. */
static void
net_dial_cancel(struct dial *d)
{
	timer_stop(&d->timer);
	watch_close(&d->watch);
	if (d->resolve != NULL && job_cancel(&d->resolve->job))
		free(d->resolve);
	else if (d->resolve != NULL)
		d->resolve->dial = NULL;
	d->resolve = NULL;
}

static void
dial_finish(struct dial *d, int fd, const char *code, const char *why)
{
	net_dial_cancel(d);
	d->done(d, fd, code, why);
}

static void
dial_timeout(struct timer *t)
{
	struct dial *d = OWNER(t, struct dial, timer);

	if (d->resolve != NULL) {
		dial_finish(d, -1, "upstream_unreachable", "the name look-up took too long");
		return;
	}
	watch_close(&d->watch);
	d->last = "connection timed out";
	dial_next(d);
}

static void
dial_ready(struct watch *w)
{
	struct dial *d = OWNER(w, struct dial, watch);
	int err = 0, fd = w->fd;
	socklen_t len = sizeof err;

	if (!w->writable)
		return;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0 || err != 0) {
		d->last = err == ECONNREFUSED ? "connection refused" :
		    err == EHOSTUNREACH || err == ENETUNREACH ? "no route to host" : "connection failed";
		watch_close(w);
		dial_next(d);
		return;
	}
	epoll_ctl(loop_fd, EPOLL_CTL_DEL, fd, NULL);
	w->fd = -1;
	dial_finish(d, fd, NULL, NULL);
}

static void
dial_next(struct dial *d)
{
	while (d->next < d->n) {
		const struct endpoint *e = &d->at[d->next++];
		struct sockaddr_storage ss;
		socklen_t len = d->path != NULL ? net_unix(d->path, &ss) : net_sockaddr(e, &ss);
		int64_t until = clock_now() + NET_DIAL_EACH_MS;

		if (clock_now() >= d->deadline)
			break;
		d->watch = (struct watch){.ready = dial_ready};
		d->watch.fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		if (d->watch.fd < 0) {
			d->last = "out of sockets";
			continue;
		}
		net_nodelay(d->watch.fd);
		if ((connect(d->watch.fd, (struct sockaddr *)&ss, len) != 0 && errno != EINPROGRESS) ||
		    !watch_add(&d->watch, EPOLLOUT | EPOLLET)) {
			d->last = "no route to host";
			watch_close(&d->watch);
			continue;
		}
		if (d->next == d->n || until > d->deadline)
			until = d->deadline;
		timer_set(&d->timer, until, dial_timeout);
		return;
	}
	dial_finish(d, -1, "upstream_unreachable", d->last);
}

/* One forbidden address refuses the whole name: a DNS answer that mixes forbidden and other addresses is an
 * attack (DNS rebinding) or a mistake. */
static void
dial_judge(struct dial *d)
{
	const char *why;

	for (size_t i = 0; i < d->n; i++) {
		why = d->guarded ? net_guard(&d->at[i], d->allow, d->nallow) :
		    net_is_own_listener(&d->at[i]) ? NET_OWN : NULL;
		if (why != NULL) {
			dial_finish(d, -1, "address_blocked", why);
			return;
		}
	}
	dial_next(d);
}

static void
resolve_done(struct defer *done)
{
	struct resolve *r = OWNER(done, struct resolve, job.defer);
	struct dial *d = r->dial;

	if (d != NULL) {
		d->resolve = NULL;
		memcpy(d->at, r->at, sizeof d->at);
		d->n = r->n;
		if (d->n == 0)
			d->last = r->err == EAI_AGAIN ? "the name look-up failed for now" : "the name does not resolve";
		dial_judge(d);
	}
	free(r);
}

/* `host`: canonical. The caller filled allow, nallow, done and path in a zeroed struct. `done` may be
 * called before this returns. `guarded`: a host that a request names. */
static void
net_dial(struct dial *d, const char *host, uint16_t port, bool guarded)
{
	struct slice to = slice_of(host), left = guarded ? buf_slice(&net.to) : SLICE("");
	struct resolve *r;
	uint64_t number;

	d->deadline = clock_now() + net_dial_ms;
	d->guarded = guarded;
	d->watch.fd = -1;
	d->last = "connection failed";
	while (d->guarded == guarded && left.n != 0) {
		struct slice line = slice_cut(&left, '\n'), named = slice_cut(&line, ' '), at = slice_cut(&line, ' '),
		    target = slice_cut(&line, ' ');

		if ((named.n != 0 && !slice_eq(named, to)) || (slice_number(at, UINT16_MAX, &number) && number != port))
			continue;
		d->guarded = false;
		to = target.n != 0 ? target : to;
		port = slice_number(line, UINT16_MAX, &number) ? (uint16_t)number : port;
	}
	d->at[0].port = port;
	d->next = 0;
	d->n = 1;
	if (d->path != NULL) {
		dial_next(d);
	} else if (addr_parse(to, &d->at[0].addr)) {
		dial_judge(d);
	} else if ((r = malloc(sizeof *r)) == NULL) {
		dial_finish(d, -1, "upstream_unreachable", "out of memory");
	} else {
		*r = (struct resolve){.port = port, .dial = d,
		    .job = {.lane = JOB_RESOLVE, .owner = d->owner, .run = resolve_run, .done = resolve_done}};
		slice_cstr(to, r->host, sizeof r->host);        /* as long as a host at most */
		d->resolve = r;
		timer_set(&d->timer, d->deadline, dial_timeout);
		job_submit(&r->job);
	}
}

/* ---- tls -------------------------------------------------------------------
 * TLS 1.2 both ways over BearSSL: bytes in, bytes out, no sockets. The rest of the file sees only
 * the functions of "pump" at the end of this section; another engine could stand beside this one.
 *
 * Invariants. Not one byte of application data leaves before the peer's chain was verified whole:
 * the engine takes none until the handshake is done, and a resumed session was verified when it was
 * made. An engine that is lent to a helper thread is touched by nobody else. Record buffers belong to
 * a connection only while bytes move. Keys, master secrets and read plaintext are wiped when they go.
 * TLS_CLOSED means that close_notify came; the end of the transport before it is a truncation. */
#define TLS_SESSIONS      4096  /* agents' sessions, shared by all workers: 544 KiB as they fill */
#define TLS_SESSIONS_DOOR 1024  /* of their own: the world drives out no agent's */
#define TLS_SESSIONS_UP   1024  /* upstream sessions of a worker: more hosts than are ever busy */
#define TLS_SESSION_LIFE  (24 * 3600)   /* seconds: the upper limit in RFC 5246 F.1.4 */
#define TLS_SESSION_LIFE_UP 3600        /* an upstream's certificate is judged again hourly */
#define TLS_SWEEP_MS      60000 /* how long an expired session may lie about before it is wiped */
#define TLS_HOST_MAX      255   /* RFC 1035 2.3.4, and the engine's server_name */
#define TLS_BUFS_SPARE    16    /* idle pairs of record buffers a worker always keeps (0.5 MB) */

enum tls_state { TLS_HANDSHAKE, TLS_OPEN, TLS_CLOSED /* close_notify came */, TLS_FAILED };

struct tls_bufs {               /* one pair of record buffers */
	struct tls_bufs *next;
	/* An agent may have OpenSSL write records of 512 bytes (RFC 6066 4), with 29 more each. */
	unsigned char in[BR_SSL_BUFSIZE_INPUT], out[BR_SSL_BUFSIZE_OUTPUT + 16384 / 512 * 29];
};

struct tls {
	union {
		br_ssl_engine_context eng;      /* both begin with it */
		br_ssl_server_context server;
		br_ssl_client_context client;
	} u;
	void *ssl;                      /* owned; OpenSSL's SSL, in the place of BearSSL's engine; NULL: that */
	struct slice wire;              /* of OpenSSL: what tls_feed was given, while it runs; borrowed */
	size_t got_at, got_n;           /* plaintext in bufs->in */
	size_t out_at, out_n;           /* records in bufs->out */
	size_t plain_n;                 /* plaintext there, where there are no records: the next one's, until tls_flush */
	size_t vain;                    /* see OSSL_VAIN_MAX */
	int64_t expires;                /* client: its session: an hour behind the last time that its chain was judged */
	struct tls_bufs *bufs;          /* owned; NULL while parked */
	size_t in_high;                 /* bytes of bufs->in that plaintext has touched */
	struct leaf *leaf;              /* owned reference; server, during the handshake */
	struct tls_ident *own;          /* owned reference; server: the operator's certificate; NULL: a leaf */
	struct tls_verify *verify;      /* owned; client, during the handshake */
	struct watch *watch;            /* borrowed: see tls_connect; NULL: it is never lent */
	uint32_t owner;                 /* whose it is (struct job) */
	const char *why;                /* static; set once failed */
	uint8_t name[32];               /* of the session in its table; of an agent's end with OpenSSL: what a ticket is bound to */
	uint8_t ended_by;               /* the alert that did, the peer's or ours; 0: none */
	uint8_t alert[96], alert_n, alert_at;   /* a record that BearSSL would not send for us */
	bool is_client;
	bool done;                      /* the handshake is over */
	bool resumed, closing, failed;
	bool lent;                      /* a helper thread has it: nobody else may touch engine and verify */
	char host[];                    /* canonical, NUL-terminated */
};
_Static_assert(offsetof(br_ssl_server_context, eng) == 0 &&
    offsetof(br_ssl_client_context, eng) == 0, "the union's members share the engine");

static struct session_table *sessions_agents;   /* shared by all workers of a kind */
static struct session_table *sessions_door;     /* becomes sessions_agents of the door's workers */
static struct tls_ident *tls_own[LISTEN_KINDS]; /* owned references; the operator's certificates */
static struct session_table *sessions_up;       /* this worker's */

/* -- templates: setting an engine up costs 37 us, copying one that is set up does not. They are
 * never seeded: each copy gets its own randomness, or two connections would share theirs. */
static br_ssl_server_context tls_server_template;
static br_ssl_client_context tls_client_template;

/* BearSSL 0.6 checks for a failed ALPN match only in full handshakes. In a resumed one it goes on
 * to read protocol_names[0xfffe]: any client could crash a worker. So the array of names is long
 * enough to have that entry (pages between stay untouched); tls_settle ends it. */
#define TLS_ALPN_NONE 0xffff            /* selected_protocol: a list came, without a name of ours */
static const char **tls_alpn;           /* h2, and http/1.1: the second alone unless tls_offer_h2 was called */

/* Forward secrecy and AEAD; with tls=legacy also CBC with SHA-2. Never RSA key exchange, SHA-1 or
 * 3DES. Where ChaCha20 stands depends on the processor. */
static const uint16_t tls_suites_all[] = {
	BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,     /* to here: what our certificates can do */
	BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,       /* to here: what any upstream may */
	BR_TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, BR_TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256,
	BR_TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384, BR_TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384,
};
#define TLS_SUITES_SERVER 3
#define TLS_SUITES_CLIENT 6

/* A 16 KiB record takes AES-GCM 4 us in hardware, ChaCha20 41, AES in plain C hundreds: without the
 * hardware ChaCha20 goes first. */
static void
tls_suites(br_ssl_engine_context *eng, size_t n)
{
	const uint16_t *in = tls_suites_all;
	bool hw = (br_aes_x86ni_ctr_get_vtable() != NULL && br_ghash_pclmul_get() != 0) ||
	    (br_aes_pwr8_ctr_get_vtable() != NULL && br_ghash_pwr8_get() != 0);
	uint16_t out[COUNT(tls_suites_all)];
	size_t k = 0;

	for (int pass = hw; pass < 2; pass++)
		for (size_t i = 0; i < n; i++)
			if (hw || (in[i] != BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 &&
			    in[i] != BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256) == pass)
				out[k++] = in[i];
	br_ssl_engine_set_suites(eng, out, k);
}

/* BearSSL 0.6 reads a ClientHello's suites into client_suites, 48 entries: a suite that we know goes to
 * the entry of its place in our order. For each of the 45 entries that stay zero BearSSL's interpreter
 * then searches its whole table of suites: a sixth of a full handshake's time. Between the two steps
 * BearSSL draws a session id, and its random generator calls the init of its hash. tls_rng_hash is
 * SHA-256 with an init that puts TLS_FILLER, the first suite of that table, into the zero entries, so
 * that each search ends at once. policy_choose takes the fillers off again. */
#define TLS_FILLER BR_TLS_RSA_WITH_3DES_EDE_CBC_SHA
static br_hash_class tls_rng_hash;      /* SHA-256, but for its init */
static br_ssl_server_context *tls_reading; /* the agent's engine that tls_feed feeds; NULL: none */

static void
tls_rng_hash_init(const br_hash_class **ctx)
{
	br_sha256_vtable.init(ctx);
	for (size_t i = 0; tls_reading != NULL && i < COUNT(tls_reading->client_suites); i++)
		if (tls_reading->client_suites[i][0] == 0)
			tls_reading->client_suites[i][0] = TLS_FILLER;
}

/* Once, before fork. */
static bool
tls_init(void)
{
	br_ssl_engine_context *const ends[] = {&tls_server_template.eng, &tls_client_template.eng};
	size_t n = ((size_t)TLS_ALPN_NONE + 1) * sizeof *tls_alpn;

	tls_alpn = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (tls_alpn == MAP_FAILED)
		return false;
	tls_alpn[0] = "h2";
	tls_alpn[1] = tls_alpn[TLS_ALPN_NONE - 1] = tls_alpn[TLS_ALPN_NONE] = "http/1.1";
	(void)mprotect(tls_alpn, n, PROT_READ);
	tls_rng_hash = br_sha256_vtable;
	tls_rng_hash.init = tls_rng_hash_init;
	br_ssl_server_zero(&tls_server_template);
	br_ssl_client_zero(&tls_client_template);
	tls_suites(ends[0], TLS_SUITES_SERVER);
	tls_suites(ends[1], TLS_SUITES_CLIENT);
	for (size_t i = 0; i < COUNT(ends); i++) {
		br_ssl_engine_context *eng = ends[i];

		br_ssl_engine_set_versions(eng, BR_TLS12, BR_TLS12);
		br_ssl_engine_set_hash(eng, br_sha256_ID, &br_sha256_vtable);
		br_ssl_engine_set_hash(eng, br_sha384_ID, &br_sha384_vtable);
		br_ssl_engine_set_hash(eng, br_sha512_ID, &br_sha512_vtable);
		br_ssl_engine_set_prf_sha256(eng, &br_tls12_sha256_prf);
		br_ssl_engine_set_prf_sha384(eng, &br_tls12_sha384_prf);
		br_ssl_engine_set_default_aes_gcm(eng);
		br_ssl_engine_set_default_chapol(eng);
		br_ssl_engine_set_default_aes_cbc(eng);
		br_ssl_engine_set_default_ec(eng);
		br_ssl_engine_set_default_rsavrfy(eng);
		br_ssl_engine_set_default_ecdsa(eng);
		br_ssl_engine_set_protocol_names(eng, tls_alpn + 1, 1);
		br_ssl_engine_set_all_flags(eng, BR_OPT_ENFORCE_SERVER_PREFERENCES |
		    BR_OPT_NO_RENEGOTIATION | BR_OPT_FAIL_ON_ALPN_MISMATCH);
		eng->rng_os_rand_done = 1;      /* tls_new seeds; BearSSL would open /dev/urandom */
	}
	return (sessions_agents = session_table_new(TLS_SESSIONS, MAP_SHARED)) != NULL &&
	    (sessions_door = session_table_new(TLS_SESSIONS_DOOR, MAP_SHARED)) != NULL;
}

static void
tls_sweep(struct timer *t)
{
	session_sweep(sessions_agents);
	session_sweep(sessions_up);
	ossl_sweep();
	timer_set(t, clock_now() + TLS_SWEEP_MS, tls_sweep);
}

/* In each worker, after fork; the CA is loaded by the caller, from the store. */
static bool
tls_worker_init(void)
{
	static struct timer sweep;

	if ((sessions_up = session_table_new(TLS_SESSIONS_UP, MAP_PRIVATE)) == NULL)
		return false;
	if (net.kind == LISTEN_GATEWAY)
		sessions_agents = sessions_door;
	session_table_lock(sessions_agents);    /* fork does not inherit locks */
	timer_set(&sweep, clock_now() + TLS_SWEEP_MS, tls_sweep);
	return true;
}

/* -- record buffers: a pair is attached to an engine while bytes move, and lies in a pool otherwise. */
static struct pool bufs_spare;
static size_t bufs_low;         /* the fewest spare since the last trim: so many were not needed */

/* tls_detach takes the buffers from an engine, and tls_attach gives it others: sound only because BearSSL
 * 0.6 keeps its positions as offsets (ixa, oxc), and pointers in ibuf and obuf alone. */
_Static_assert(_Generic(((br_ssl_engine_context *)0)->ibuf, unsigned char *: 1, default: 0) &&
    _Generic(((br_ssl_engine_context *)0)->ixa, size_t: 1, default: 0) &&
    _Generic(((br_ssl_engine_context *)0)->oxc, size_t: 1, default: 0),
    "not the BearSSL 0.6 we know");

/* Called now and then: buffers that lay idle since the last call go back to the kernel, but for
 * TLS_BUFS_SPARE. A burst does not cost memory for ever, and steady work never waits for the kernel. */
static void
bufs_trim(void)
{
	for (; bufs_low != 0 && bufs_spare.n > TLS_BUFS_SPARE; bufs_low--)
		munmap(pool_get(&bufs_spare), sizeof(struct tls_bufs));
	bufs_low = bufs_spare.n;
}

static bool
tls_attach(struct tls *t)
{
	struct tls_bufs *b;

	if (t->bufs != NULL || t->failed)
		return t->bufs != NULL;
	if ((b = pool_get(&bufs_spare)) != NULL) {
		if (bufs_spare.n < bufs_low)
			bufs_low = bufs_spare.n;
	} else {
		b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (b == MAP_FAILED)
			return false;
		(void)madvise(b, sizeof *b, MADV_DONTDUMP);
	}
	t->bufs = b;
	t->u.eng.ibuf = b->in;
	t->u.eng.obuf = b->out;
	return true;
}

static void
tls_detach(struct tls *t)
{
	struct tls_bufs *b = t->bufs;

	if (b == NULL)
		return;
	wipe(b->in, t->in_high);
	if (t->u.eng.oxa != t->u.eng.oxc || t->plain_n != 0)
		wipe(b->out, sizeof b->out);    /* plaintext perhaps */
	t->in_high = 0;
	t->u.eng.ibuf = t->u.eng.obuf = NULL;
	t->bufs = NULL;
	pool_put(&bufs_spare, b, SIZE_MAX);
}

/* -- alerts, and the end of a failed connection */
#define TLS_UNRECOGNIZED_NAME 112       /* alerts that BearSSL has no name for: RFC 6066 3, */
#define TLS_CERTIFICATE_REQUIRED 116    /* RFC 8446 6.2 */

/* The alert for each error of the engine (RFC 5246 7.2.2): BearSSL sends none. */
static const uint8_t tls_alerts[] = {
	[BR_ERR_BAD_PARAM] = 50, [BR_ERR_UNSUPPORTED_VERSION] = 70, [BR_ERR_BAD_VERSION] = 70,
	[BR_ERR_BAD_LENGTH] = 20, [BR_ERR_TOO_LARGE] = 22, [BR_ERR_BAD_MAC] = 20,
	[BR_ERR_UNKNOWN_TYPE] = 10, [BR_ERR_UNEXPECTED] = 10, [BR_ERR_BAD_CCS] = 50,
	[BR_ERR_BAD_ALERT] = 50, [BR_ERR_BAD_HANDSHAKE] = 50, [BR_ERR_OVERSIZED_ID] = 50,
	[BR_ERR_BAD_CIPHER_SUITE] = 47, [BR_ERR_BAD_COMPRESSION] = 47, [BR_ERR_BAD_FRAGLEN] = 47,
	[BR_ERR_EXTRA_EXTENSION] = 110, [BR_ERR_BAD_SNI] = 47, [BR_ERR_BAD_HELLO_DONE] = 50,
	[BR_ERR_BAD_FINISHED] = 51, [BR_ERR_RESUME_MISMATCH] = 47, [BR_ERR_INVALID_ALGORITHM] = 47,
	[BR_ERR_BAD_SIGNATURE] = 51, [BR_ERR_X509_EXPIRED] = 45, [BR_ERR_X509_NOT_TRUSTED] = 48,
};
static const char *const tls_alert_names[] = {  /* and RFC 6066 3, 7301 3.2, 8446 6.2 */
	[10] = "unexpected_message", [20] = "bad_record_mac", [22] = "record_overflow",
	[40] = "handshake_failure", [42] = "bad_certificate", [43] = "unsupported_certificate",
	[44] = "certificate_revoked", [45] = "certificate_expired", [46] = "certificate_unknown",
	[47] = "illegal_parameter", [48] = "unknown_ca", [49] = "access_denied", [50] = "decode_error",
	[51] = "decrypt_error", [70] = "protocol_version", [71] = "insufficient_security",
	[80] = "internal_error", [90] = "user_canceled", [100] = "no_renegotiation",
	[110] = "unsupported_extension", [112] = "unrecognized_name",
	[120] = "no_application_protocol",
};

/* The alert to send for an error of the engine. 0: none, because the engine or the peer sent one. */
static uint8_t
tls_alert_for(const struct tls *t, int err)
{
	if (err >= BR_ERR_RECV_FATAL_ALERT || err == BR_ERR_OK)
		return 0;
	if (err == BR_ERR_BAD_LENGTH && t->u.eng.ibuf != NULL && load_be16(t->u.eng.ibuf + 3) > 16384)
		return 22;      /* record_overflow; a record that is too short for its MAC has this error too */
	if ((size_t)err < COUNT(tls_alerts) && tls_alerts[err] != 0)
		return tls_alerts[err];
	return err >= BR_ERR_X509_OK ? BR_ALERT_BAD_CERTIFICATE : BR_ALERT_HANDSHAKE_FAILURE;
}

/* Ends the connection, and writes a fatal alert (0: none) as a record under the present keys into t->alert;
 * not while an encrypted record waits in the engine, of which a part may be sent already. A session that a
 * fatal alert ended is never resumed (RFC 5246 7.2.2). */
static void
tls_fail(struct tls *t, const char *why, uint8_t alert)
{
	br_ssl_engine_context *eng = &t->u.eng;
	size_t from = 5, to = sizeof t->alert, n = 2;
	unsigned char *p;

	t->failed = true;
	session_drop(t->is_client ? sessions_up : sessions_agents, t->name);
	t->ended_by = alert != 0 ? alert : eng->err >= BR_ERR_RECV_FATAL_ALERT ?
	    (uint8_t)eng->err : 0;          /* 256 or 512 plus the alert: received or sent */
	t->why = t->is_client ? why : t->ended_by == 0 ? "closed" :
	    t->ended_by < COUNT(tls_alert_names) && tls_alert_names[t->ended_by] != NULL ?
	    tls_alert_names[t->ended_by] : "another_alert";
	if (alert == 0 || t->ssl != NULL || (eng->out.vtable != &br_sslrec_out_clear_vtable && eng->oxc > eng->oxa))
		return;
	eng->out.vtable->max_plaintext(&eng->out.vtable, &from, &to);
	memcpy(t->alert + from, (uint8_t[]){2, alert}, 2);
	p = eng->out.vtable->encrypt(&eng->out.vtable, 21, BR_TLS12, t->alert + from, &n);
	t->alert_at = (uint8_t)(p - t->alert);
	t->alert_n = (uint8_t)(t->alert_at + n);
}

/* -- server: what BearSSL asks of us during a handshake with an agent */

/* Called in a full handshake only. The client's suites are filtered, and in our order. */
static int
policy_choose(const br_ssl_server_policy_class **pctx, const br_ssl_server_context *cc,
    br_ssl_server_choices *choices)
{
	struct tls *t = OWNER(cc, struct tls, u.server);

	t->resumed = false;
	while (t->u.server.client_suites_num != 0 &&
	    t->u.server.client_suites[t->u.server.client_suites_num - 1][0] == TLS_FILLER)
		t->u.server.client_suites_num--;
	return t->u.server.client_suites_num != 0 &&
	    (t->own != NULL ? tls_ident_show(t->own, &t->u.server, NULL) : leaf_show(&t->leaf, t->host, &t->u.server)) &&
	    (*cc->policy_vtable)->choose(cc->policy_vtable, cc, choices);
}

static const br_ssl_server_policy_class policy_class = {sizeof(void *), policy_choose, NULL, NULL},
    *tls_policy = &policy_class;

/* Agents' sessions are named by their id and the host of the tunnel, or the certificate that was shown. */
static struct tls *
cache_name(br_ssl_server_context *server, const br_ssl_session_parameters *p)
{
	struct tls *t = OWNER(server, struct tls, u.server);

	tls_sha256_join((const struct slice[]){{(const char *)p->session_id, sizeof p->session_id},
	    slice_of(t->host), tls_ident_tag(t->own)}, 3, t->name);
	return t;
}

static void
cache_save(const br_ssl_session_cache_class **pctx, br_ssl_server_context *server,
    const br_ssl_session_parameters *p)
{
	session_put(sessions_agents, cache_name(server, p)->name, p, TLS_SESSION_LIFE);
}

static int
cache_load(const br_ssl_session_cache_class **pctx, br_ssl_server_context *server,
    br_ssl_session_parameters *p)
{
	struct tls *t = cache_name(server, p);

	return t->resumed = session_find(sessions_agents, t->name, p);
}

static const br_ssl_session_cache_class cache_class = {sizeof(void *), cache_save, cache_load},
    *tls_cache = &cache_class;

/* -- client: our ClientHello */

/* BearSSL offers curves by number, P-256 first, and many servers take the first they know: X25519
 * costs a quarter of it. So the list is reordered in the ClientHello that waits to be sent, and the
 * hash of the handshake begun again over what will be sent. */
static void
tls_prefer_x25519(br_ssl_engine_context *eng)
{
	static const char theirs[] = "\0\x0a\0\x0a\0\x08\0\x17\0\x18\0\x19\0\x1d",
	    ours[] = "\0\x0a\0\x0a\0\x08\0\x1d\0\x17\0\x18\0\x19\0";
	const size_t sid = 5 + 4 + 34;          /* the length of the session id, which the server chose */
	size_t n;
	unsigned char *p = br_ssl_engine_sendrec_buf(eng, &n), *at;

	if (p == NULL || n <= sid || (size_t)p[sid] + sid >= n ||
	    (at = memmem(p + sid + p[sid], n - sid - p[sid], theirs, sizeof theirs - 1)) == NULL)
		return;
	memcpy(at, ours, sizeof theirs - 1);
	br_multihash_init(&eng->mhash);
	br_multihash_update(&eng->mhash, p + 5, n - 5);
}

/* -- both ends */

/* Frees leaf and verify, which only a handshake needs, once it is over or has failed. */
static void
tls_shaken(struct tls *t)
{
	if (t->failed || t->done) {
		t->u.eng.x509ctx = NULL;        /* renegotiation is off: the engine never asks again */
		verify_free(t->verify);
		leaf_unref(t->leaf);
		t->verify = NULL;
		t->leaf = NULL;
	}
}

/* May a client name that server, or none (RFC 6066 3)? The operator's own certificate is for any name. */
static bool
tls_named(const struct tls *t, const char *sni)
{
	struct slice name = slice_of(sni != NULL ? sni : "");

	name.n -= name.n != 0 && name.p[name.n - 1] == '.';
	return name.n == 0 || t->own != NULL || slice_eq_nocase(name, slice_of(t->host));
}

/* Called after each step of the engine: is the handshake over, or did the connection fail? Either wipes the master
 * secret. */
static void
tls_settle(struct tls *t)
{
	br_ssl_engine_context *eng = &t->u.eng;
	bool closed = br_ssl_engine_current_state(eng) == BR_SSL_CLOSED;
	bool hello = !t->is_client && eng->version_out == BR_TLS12;

	if (t->failed || (t->done && (!closed || eng->err == BR_ERR_OK)))
		return;
	/* SNI and ALPN of a ClientHello are ours to judge; BearSSL's ServerHello lies in its buffer, unsent */
	if (hello && !tls_named(t, eng->server_name))
		tls_fail(t, NULL, TLS_UNRECOGNIZED_NAME);
	else if (hello && eng->selected_protocol == TLS_ALPN_NONE)
		tls_fail(t, NULL, BR_ALERT_NO_APPLICATION_PROTOCOL);
	if (!t->failed && (closed || eng->shutdown_recv))
		tls_fail(t, tls_reason(t, eng->err), tls_alert_for(t, eng->err));
	if (!t->failed && eng->application_data == 1) {
		t->done = true;
		if (t->is_client && !t->resumed && eng->session.session_id_len != 0)
			session_put(sessions_up, t->name, &eng->session, TLS_SESSION_LIFE_UP);
		wipe(eng->session.master_secret, sizeof eng->session.master_secret);
	}
	tls_shaken(t);
}

static void
tls_stepped(struct tls *t)
{
	if (t->ssl != NULL) {
		ossl_step(t);
		return;
	}
	if (t->u.eng.ixb > t->in_high)
		t->in_high = t->u.eng.ixb;
	tls_settle(t);
}

/* Did BearSSL's handshake end for want of what another engine may have? A server refuses its ClientHello by any
 * alert, or hangs up at it. */
static bool
tls_unable(const struct tls *t)
{
	int err = t->u.eng.err;

	return err == X509_OTHER || (err >= BR_ERR_RECV_FATAL_ALERT && t->u.client.hashes == 0) ||
	    (err == BR_ERR_OK && t->u.eng.version_in == 0);
}

/* May the engine be touched? */
static bool
tls_live(const struct tls *t)
{
	return !t->failed && !t->lent;
}

/* Has the peer's close_notify ended both ways? With BearSSL it does. An agent may end its side alone and still read. */
static bool
tls_shut(const struct tls *t)
{
	return t->u.eng.shutdown_recv && (t->ssl == NULL || t->is_client);
}

/* -- pump: what the rest of the file sees. Every call may change tls_status and tls_has_output. */
static void
tls_free(struct tls *t)
{
	if (t == NULL)
		return;
	if (t->lent && !verify_take_back(t->verify))
		return;         /* freed once the helper thread is done with it */
	ossl_free(t->ssl);
	tls_detach(t);
	verify_free(t->verify);
	leaf_unref(t->leaf);
	tls_ident_unref(t->own);
	wipe(t, sizeof *t);
	free(t);
}

static struct tls *
tls_new(struct slice host, bool is_client)
{
	struct tls *t;
	uint8_t seed[48];

	if (host.n == 0 || host.n > TLS_HOST_MAX || memchr(host.p, '\0', host.n) != NULL ||
	    (t = calloc(1, sizeof *t + host.n + 1)) == NULL)
		return NULL;
	memcpy(t->host, host.p, host.n);
	t->is_client = is_client;
	if (is_client)
		t->u.client = tls_client_template;
	else
		t->u.server = tls_server_template;
	if (!rand_bytes(seed, sizeof seed) || !tls_attach(t)) {
		tls_free(t);
		return NULL;
	}
	br_ssl_engine_inject_entropy(&t->u.eng, seed, sizeof seed);
	wipe(seed, sizeof seed);
	if (!is_client)
		t->u.eng.rng.digest_class = &tls_rng_hash;
	br_ssl_engine_set_buffers_bidi(&t->u.eng, t->bufs->in, sizeof t->bufs->in, t->bufs->out, BR_SSL_BUFSIZE_OUTPUT);
	return t;
}

/* An agent's end of a tunnel to `host` (canonical; an address gets an iPAddress name). `own`: a client's
 * end of a listener with the operator's certificate, which any name is met by: `host` is only a label. */
static struct tls *
tls_accept(struct slice host, struct tls_ident *own)
{
	struct tls *t = tls_ca_loaded ? tls_new(host, false) : NULL;

	if (t == NULL)
		return NULL;
	t->own = tls_ident_ref(own);
	if (tls_engine_agents == ENGINE_OPENSSL && ossl_load()) {
		if (!ossl_open(t))
			tls_fail(t, "out of memory", 0);
		return t;
	}
	if (own != NULL)
		tls_suites(&t->u.eng, TLS_SUITES_CLIENT);       /* its key may be RSA */
	br_ssl_server_set_policy(&t->u.server, &tls_policy);
	br_ssl_server_set_cache(&t->u.server, &tls_cache);
	br_ssl_server_reset(&t->u.server);
	t->u.eng.version_out = BR_TLS10;        /* of alerts before a hello; BearSSL says 0 */
	tls_settle(t);
	return t;
}

/* Before the handshake: HTTP/2 may be chosen. All suites of ours are what RFC 9113 9.2.2 asks for, but those of tls=legacy. */
static void
tls_offer_h2(struct tls *t)
{
	br_ssl_engine_set_protocol_names(&t->u.eng, tls_alpn, 2);
}

/* Our end towards an upstream. `ident` may be NULL. `tag` keeps sessions of different identities
 * apart. `h2`: offered. The caller has made sure that the clock is set (clock_unset). With `watch`, not NULL, a helper
 * thread verifies a chain that is not known: it has the engine until `watch` is told, and this section's
 * functions take and give nothing meanwhile. `owner` as in struct job. */
static struct tls *
tls_connect(struct tls_trust *trust, struct tls_ident *ident, struct slice host, int port,
    struct slice tag, bool h2, enum tls_engine engine, struct watch *watch, uint32_t owner)
{
	struct tls *t = tls_new(host, true);
	uint8_t ip[16];

	if (t == NULL)
		return NULL;
	t->watch = watch;
	t->owner = owner;
	if (h2)
		tls_offer_h2(t);
	if ((t->verify = verify_new(trust, ident, t->host, &t->resumed, &t->u.client)) == NULL) {
		tls_free(t);
		return NULL;
	}
	t->resumed = verify_offer_session(t->verify, &t->u.eng, port, tag, t->name);
	if (engine == ENGINE_OPENSSL) {
		if (!ossl_open(t))
			tls_fail(t, "out of memory", 0);
		return t;
	}
	br_ssl_client_reset(&t->u.client, host_ip(t->host, ip) != 0 ? NULL : t->host, t->resumed);
	tls_prefer_x25519(&t->u.eng);
	tls_settle(t);
	return t;
}

/* Was it? */
static bool
tls_is_h2(const struct tls *t)
{
	return t->u.eng.protocol_names == tls_alpn && t->u.eng.selected_protocol == 1;
}

static enum tls_state
tls_status(const struct tls *t)
{
	if (t->failed)
		return TLS_FAILED;
	if (!t->done)
		return TLS_HANDSHAKE;
	return t->u.eng.shutdown_recv ? TLS_CLOSED : TLS_OPEN;
}

/* A fixed phrase once TLS_FAILED; NULL before. Of an agent's end: the name of the alert, the agent's or
 * ours, that ended it, or "closed". */
static const char *
tls_why(const struct tls *t)
{
	return t->why;
}

static bool
tls_has_output(const struct tls *t)
{
	size_t n;

	if (t->alert_at < t->alert_n || t->out_n != 0)
		return true;
	return tls_live(t) && t->ssl == NULL && br_ssl_engine_sendrec_buf(&t->u.eng, &n) != NULL;
}

/* Moves up to n bytes from `in` into the engine, or, if `in` is NULL, from the engine to `out`. `room`
 * is BearSSL's function that gives the engine's buffer, `moved` the one that acknowledges bytes of it. */
static size_t
tls_move(struct tls *t, unsigned char *(*room)(const br_ssl_engine_context *, size_t *),
    void (*moved)(br_ssl_engine_context *, size_t), const char *in, char *out, size_t n)
{
	br_ssl_engine_context *eng = &t->u.eng;
	size_t at = 0, k;
	unsigned char *p;

	while (at < n && tls_live(t) && (p = room(eng, &k)) != NULL) {
		/* BearSSL refuses data that came with a Finished while its own waits (False Start, RFC 7918) */
		if (in != NULL && eng->incrypt && !t->done && tls_has_output(t))
			break;
		if (k > n - at)
			k = n - at;
		memcpy(in != NULL ? (char *)p : out + at, in != NULL ? in + at : (char *)p, k);
		at += k;
		if (t->watch != NULL && !eng->incrypt)
			verify_step(t, moved, k);
		else
			moved(eng, k);
		if (!t->lent)
			tls_stepped(t);
	}
	return at;
}

/* Wire bytes in. Takes fewer while plaintext waits for tls_consume, or output for tls_drain. After
 * a failure, and after close_notify, all bytes are taken and dropped. */
static size_t
tls_feed(struct tls *t, const void *p, size_t n)
{
	size_t took;

	if (n == 0)
		return 0;
	if (!t->failed && !tls_attach(t))
		tls_fail(t, "out of memory", 0);
	if (t->ssl != NULL)
		return ossl_feed(t, p, n);
	tls_reading = t->is_client || t->done ? NULL : &t->u.server;
	took = tls_move(t, br_ssl_engine_recvrec_buf, br_ssl_engine_recvrec_ack, p, NULL, n);
	tls_reading = NULL;
	if (t->lent)
		return took;
	return t->failed || t->u.eng.shutdown_recv ? n : took;
}

/* Is the next byte off the wire, at p, the first of an alert (RFC 5246 6.2.1)? After a handshake that
 * is close_notify, or the end. */
static bool
tls_alert_next(const struct tls *t, const char *p)
{
	size_t room;

	return t->done && !t->failed && t->ssl == NULL && t->bufs != NULL && *p == 21 &&
	    br_ssl_engine_recvrec_buf(&t->u.eng, &room) != NULL && room == 5;
}

/* Wire bytes out, records and flights gathered as far as there is room. */
static size_t
tls_drain(struct tls *t, void *out, size_t n)
{
	size_t at = t->ssl != NULL ? ossl_drain(t, out, n) :
	    tls_move(t, br_ssl_engine_sendrec_buf, br_ssl_engine_sendrec_ack, NULL, out, n);
	size_t have = t->alert_n - t->alert_at;

	if (have > n - at)
		have = n - at;
	memcpy((char *)out + at, t->alert + t->alert_at, have);
	t->alert_at += (uint8_t)have;
	return at + have;
}

/* Plaintext that came: valid until the next call on this connection but tls_drain and tls_write. */
static struct slice
tls_peek(struct tls *t)
{
	size_t n;
	unsigned char *p = NULL;

	if (t->ssl != NULL && !t->failed && t->got_n != 0)
		return (struct slice){(const char *)t->bufs->in + t->got_at, t->got_n - t->got_at};
	if (tls_live(t) && t->bufs != NULL && t->ssl == NULL)
		p = br_ssl_engine_recvapp_buf(&t->u.eng, &n);
	return p == NULL ? (struct slice){NULL, 0} : (struct slice){(const char *)p, n};
}

static void
tls_consume(struct tls *t, size_t n)
{
	if (t->ssl != NULL && (t->got_at += n) == t->got_n)
		t->got_at = t->got_n = 0;
	if (n != 0 && t->ssl == NULL && !t->failed)
		br_ssl_engine_recvapp_ack(&t->u.eng, n);
}

/* Plaintext out, gathered into records of 16 KiB; takes what fits. 0: drain first, or not open. */
static size_t
tls_write(struct tls *t, const void *p, size_t n)
{
	if (!t->done || !tls_live(t) || t->closing || tls_shut(t))
		return 0;
	if (!tls_attach(t))
		tls_fail(t, "out of memory", 0);
	if (t->ssl != NULL)
		return ossl_write(t, p, n);
	return tls_move(t, br_ssl_engine_sendapp_buf, br_ssl_engine_sendapp_ack, p, NULL, n);
}

/* Ends the record that tls_write began, so that tls_drain gives it out. */
static void
tls_flush(struct tls *t)
{
	if (t->ssl != NULL)
		ossl_seal(t);
	else if (tls_live(t) && t->bufs != NULL)
		br_ssl_engine_flush(&t->u.eng, 0);
}

/* Sends what was written and close_notify; what was not read yet, or still comes, is dropped. */
static void
tls_shutdown(struct tls *t)
{
	if (!tls_live(t) || t->closing || tls_shut(t) || !tls_attach(t))
		return;
	t->closing = true;
	if (t->ssl != NULL) {
		ossl_shutdown(t);
		return;
	}
	br_ssl_engine_close(&t->u.eng);
	tls_settle(t);
}

/* Gives the record buffers back to the pool if they are empty: the handshake is done, no part of a record
 * lies there either way, no plaintext is unread or unflushed. The next call attaches a pair again. */
static void
tls_park(struct tls *t)
{
	const br_ssl_engine_context *eng = &t->u.eng;

	if (t->bufs != NULL && t->done && !t->failed && !t->closing && (t->ssl != NULL ? t->got_n + t->out_n + t->plain_n == 0 :
	    br_ssl_engine_current_state(eng) == (BR_SSL_RECVREC | BR_SSL_SENDAPP) &&
	    eng->ixa == 0 && eng->ixb == 0 && eng->ixc == 5 && eng->oxa == eng->oxc))
		tls_detach(t);
}

/* ---- http ------------------------------------------------------------------
 * HTTP/1.x heads and chunked framing, hosts, targets and paths. Pure: no sockets, no allocation;
 * every slice borrows from the bytes that were parsed. Strict both ways: what RFC 9110 and 9112
 * leave a recipient free to repair is refused, since the next parser may repair it otherwise, and
 * the difference is where a smuggled request lives. A parser answers bytes consumed, 0 for "need
 * more" or the negative status; a prefix of a message that it takes is never anything but "need
 * more". */
#define HTTP_HEAD_MAX 65536             /* DESIGN, Limits; nginx and Node stop at 32 and 16 KiB */
#define HTTP_FIELDS_MAX 100             /* DESIGN, Limits; Apache's LimitRequestFields */
#define HTTP_EDITS_MAX 100              /* fields that policies may add to those */
#define HTTP_METHOD_MAX 32              /* the longest registered has 17: UPDATEREDIRECTREF */
#define HTTP_CONNECTION_MAX 32          /* options in Connection: each is looked up in all fields */
#define HTTP_TRAILERS_MAX 8192          /* kept contiguous by the caller; checksums are tiny */
#define HTTP_TRAILER_FIELDS_MAX 32      /* in those */
#define HTTP_CHUNK_EXT_MAX 16384        /* extensions beyond the size of their data: Go's */
#define HTTP_CHUNK_DIGITS_MAX 16        /* 64 bits; leading zeros count too */

/* What becomes of a field, whoever sends it: bits of a row of lua/fields.lua, which has the same (section
 * `field` says how a name is compared). Bits 11 to 13: the kind of second target. "Goes" means that the
 * field is not sent on. */
enum hdr_rule {
	HDR_HOP         = 1 << 0,       /* goes, both ways; also set on what Connection names */
	HDR_FRAMING     = 1 << 1,       /* goes; C writes the only one */
	HDR_PROXY       = 1 << 2,       /* goes: was meant for us */
	HDR_OURS        = 1 << 3,       /* goes: only we say this */
	HDR_ROUTING     = 1 << 4,       /* goes where a method or path rule decided: names another method or path */
	HDR_AUTH        = 1 << 5,       /* authentication */
	HDR_ANSWER_DROP = 1 << 6,       /* goes from answers */
	HDR_FIXED       = 1 << 7,       /* no policy may set it */
	HDR_NO_TRAILER  = 1 << 8,       /* means something only before the body */
	HDR_VHOST       = 1 << 9,       /* goes where a rule decided or a credential is attached: names another host */
	HDR_SECOND      = 1 << 10,      /* names a second target, which is judged as the first was */
	HDR_DOOR        = 1 << 14,      /* of what the door hands on: goes on, as do those of its answer; all others go */
};

/* Does a request's field go out? FIELD_DROPPED: no, by those rules or a policy. FIELD_STRIPPED:
 * no, because req:strip named it: a credential of the agent's own, or a placeholder. The fields of an
 * answer are all FIELD_KEPT. */
enum field_mark { FIELD_KEPT, FIELD_DROPPED, FIELD_STRIPPED };

struct http_field {
	struct slice name, value;       /* value without the white space around it */
	uint16_t rule;                  /* HDR_*; 0: goes through */
	uint8_t mark;                   /* enum field_mark */
	bool is_secret;                 /* the value is one that was attached */
	bool door;                      /* the door set it, before anything was decided */
	struct secret *own;             /* owned; name and value lie in it. NULL: in the head as it came */
};

struct http_authority {
	struct slice host;              /* as sent, with brackets; p is NULL: none */
	int port;                       /* 1..65535, or -1: not named */
};

enum http_body { BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_EOF };
enum http_form { HTTP_ORIGIN, HTTP_ABSOLUTE, HTTP_AUTHORITY, HTTP_ASTERISK };

struct http_head {
	struct slice method, target;    /* request */
	enum http_form form;            /* request: RFC 9112 3.2 */
	bool tls;                       /* request: absolute-form of scheme https */
	struct http_authority to;       /* request: of CONNECT and absolute-form */
	struct http_authority host;     /* request: the Host field, which may be empty */
	struct slice path;              /* request: as sent; "/…", or "*" (asterisk-form) */
	struct slice query;             /* request: without "?"; p is NULL where there is none */
	struct slice reason;            /* response; may be empty */
	int status;                     /* response: 100..999 */
	int minor;                      /* HTTP/1.minor: 0 or 1 */
	enum http_body body;
	uint64_t length;                /* Content-Length, even where no body comes (HEAD, 304) */
	bool length_given;              /* there is a Content-Length */
	bool keep_alive;                /* the sender goes on after this message */
	bool expect_continue;           /* request: waits for 100 before it sends its body */
	bool upgrade;                   /* Upgrade is there and Connection names it */
	bool websocket;                 /* upgrade, to websocket and nothing else */
	int64_t keep_ms;                /* answer: how long its sender keeps an idle connection; 0: not said */
	const char *why;                /* static; what it is refused for, as in "it has …" */
	size_t line;                    /* which of its lines is to blame, from 1; 0: none alone */
	size_t nfields;
	struct http_field field[HTTP_FIELDS_MAX + HTTP_EDITS_MAX]; /* last: not cleared for each head */
};

/* RFC 9110 5.6.2 */
static bool
http_is_tchar(char c)
{
	static const bool is[256] = {
		['!'] = true, ['#' ... '\''] = true, ['*'] = true, ['+'] = true, ['-'] = true, ['.'] = true,
		['0' ... '9'] = true, ['A' ... 'Z'] = true, ['^' ... 'z'] = true, ['|'] = true, ['~'] = true,
	};

	return is[(unsigned char)c];
}

static bool
http_is_control(char c)
{
	return (unsigned char)c < 0x20 || c == 0x7f;
}

static bool
http_is_token(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if (!http_is_tchar(s.p[i]))
			return false;
	return s.n != 0;
}

/* Is one of these eight bytes a control? */
static bool
http_has_control(const char *p)
{
	const uint64_t ones = UINT64_MAX / 255, highs = ones << 7;
	uint64_t w, del;

	memcpy(&w, p, sizeof w);
	del = w ^ ones * 0x7f;
	return (((w - ones * 0x20) & ~w) | ((del - ones) & ~del)) & highs;
}

/* RFC 9110 5.5: no control but HTAB. So no CR, LF or NUL, which would end the field or the
 * string. */
static bool
http_valid_field_value(struct slice s)
{
	for (size_t i = 0; i < s.n; i++) {
		if (s.n - i >= 8 && !http_has_control(s.p + i))
			i += 7;
		else if (http_is_control(s.p[i]) && s.p[i] != '\t')
			return false;
	}
	return true;
}

static struct slice
http_trim(struct slice s)
{
	while (s.n != 0 && (s.p[0] == ' ' || s.p[0] == '\t'))
		s = (struct slice){s.p + 1, s.n - 1};
	while (s.n != 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
		s.n--;
	return s;
}

/* May this trailer be sent on? The caller also drops the names that a policy stripped or set: a server that
 * merges trailers into the head would otherwise see the agent's beside ours. */
static bool
http_trailer_allowed(const struct http_field *f)
{
	return (f->rule & (HDR_HOP | HDR_FRAMING | HDR_PROXY | HDR_OURS | HDR_ROUTING | HDR_AUTH |
	    HDR_ANSWER_DROP | HDR_NO_TRAILER | HDR_VHOST | HDR_SECOND)) == 0;
}

/* Does the field go on, of what the door hands on, or of the answer? With "_" for "-" it might be one that the door
 * itself sets, to a server that reads both alike. */
static bool
http_door_passes(const struct http_field *f)
{
	return (f->rule & HDR_DOOR) != 0 && memchr(f->name.p, '_', f->name.n) == NULL;
}

static int
http_find(const struct http_head *h, struct slice name, size_t from)
{
	for (size_t i = from; i < h->nfields; i++)
		if (slice_eq_nocase(h->field[i].name, name))
			return (int)i;
	return -1;
}

/* The value of the first of that name; .p NULL: there is none. */
static struct slice
http_value(const struct http_head *h, struct slice name)
{
	int i = http_find(h, name, 0);

	return i >= 0 ? h->field[i].value : (struct slice){NULL, 0};
}

/* -- lines and fields */

/* One line and its CRLF: bytes, 0 for "need more", -1 for a CR or LF that is not half of a CRLF. */
static ssize_t
http_line(const char *p, size_t n, struct slice *line)
{
	const char *lf = n != 0 ? memchr(p, '\n', n) : NULL;
	size_t len = lf != NULL ? (size_t)(lf - p) : n;
	const char *cr = len != 0 ? memchr(p, '\r', len) : NULL;

	if (cr != NULL && (size_t)(cr - p) + 1 != len)
		return -1;
	if (lf == NULL)
		return 0;
	if (cr == NULL)
		return -1;
	*line = (struct slice){p, len - 1};
	return (ssize_t)len + 1;
}

/* Field lines and the empty line that ends them. RFC 9112 5: a folded line begins with white space, so its
 * name is no token and it is refused here, as are white space before the colon and an empty name. */
static ssize_t
http_parse_fields(const char *p, size_t n, struct http_field *field, size_t max, size_t *count)
{
	size_t at = 0;
	struct slice line;
	ssize_t r;

	for (*count = 0; (r = http_line(p + at, n - at, &line)) > 0; ++*count) {
		struct http_field *f = &field[*count];
		size_t all = line.n;

		at += (size_t)r;
		if (all == 0)
			return (ssize_t)at;
		if (*count == max)
			return -431;
		*f = (struct http_field){.name = slice_cut(&line, ':')};
		f->value = http_trim(line);
		if (f->name.n == all || !http_is_token(f->name) || !http_valid_field_value(f->value))
			return -400;
		f->rule = http_field_rule(f->name);
	}
	return r < 0 ? -400 : 0;
}

/* Where the head ends: bytes, 0 for "need more", or -431. `*scanned` bytes (0 at first) are not searched
 * again, so that a head that comes byte by byte costs no more than one that comes whole. A bare LF ends
 * the search too: the parser then answers -400. One empty line may come first (RFC 9112 2.2). */
static ssize_t
http_head_end(const char *p, size_t n, size_t *scanned)
{
	size_t i = *scanned;
	const char *lf;

	for (; i < n && (lf = memchr(p + i, '\n', n - i)) != NULL; i++) {
		i = (size_t)(lf - p);
		if (i == 0 || p[i - 1] != '\r' || (i >= 2 && p[i - 2] == '\n'))
			return i < HTTP_HEAD_MAX ? (ssize_t)i + 1 : -431;
	}
	*scanned = n;
	return n < HTTP_HEAD_MAX ? 0 : -431;
}

/* -- targets */

/* "host", "host:port", "[v6]", "[v6]:port"; an empty port is none (RFC 3986 3.2.3). No userinfo
 * (RFC 9110 4.2.4). Which letters a host may have is http_canonical_host's to say. */
static bool
http_parse_authority(struct slice in, struct slice *host, int *port)
{
	struct slice digits;
	uint64_t number;
	size_t end;

	*port = -1;
	*host = (struct slice){NULL, 0};
	for (size_t i = 0; i < in.n; i++)
		if (http_is_control(in.p[i]) || strchr(" \"/?#@\\<>^`{|}", in.p[i]) != NULL)
			return false;
	end = slice_until(in, in.n != 0 && in.p[0] == '[' ? ']' : ':').n;
	if (in.n != 0 && in.p[0] == '[' && end++ == in.n)
		return false;
	if (end == 0)
		return false;
	*host = (struct slice){in.p, end};
	if (end == in.n || (in.p[end] == ':' && end + 1 == in.n))
		return true;
	digits = (struct slice){in.p + end + 1, in.n - end - 1};
	if (in.p[end] != ':' || digits.n > 5 || !slice_number(digits, UINT16_MAX, &number))
		return false;
	*port = (int)number;
	return number != 0;
}

/* "http://authority/path?query". `rest` is what follows the authority: empty, or begins with "/"
 * or "?". */
static bool
http_parse_absolute(struct slice target, bool *tls, struct slice *authority, struct slice *rest)
{
	size_t scheme;

	*tls = slice_begins_nocase(target, SLICE("https://"));
	if (!*tls && !slice_begins_nocase(target, SLICE("http://")))
		return false;
	scheme = *tls ? 8 : 7;
	*rest = (struct slice){target.p + scheme, target.n - scheme};
	*authority = slice_until(slice_until(*rest, '/'), '?');
	*rest = (struct slice){rest->p + authority->n, rest->n - authority->n};
	return authority->n != 0;
}

/* RFC 9112 3.2: which form, and its parts. */
static bool
http_parse_target(struct http_head *h)
{
	struct slice rest = h->target, authority;

	if (slice_eq(h->method, SLICE("CONNECT"))) {
		h->form = HTTP_AUTHORITY;
		return http_parse_authority(h->target, &h->to.host, &h->to.port) &&
		    h->to.port != -1;
	}
	if (slice_eq(h->target, SLICE("*"))) {
		h->form = HTTP_ASTERISK;
		h->path = h->target;
		return slice_eq(h->method, SLICE("OPTIONS"));
	}
	if (h->target.p[0] != '/') {
		h->form = HTTP_ABSOLUTE;
		if (!http_parse_absolute(h->target, &h->tls, &authority, &rest) ||
		    !http_parse_authority(authority, &h->to.host, &h->to.port))
			return false;
	}
	/* RFC 3986 allows fewer; clients send | { } " ^ raw, and servers take them. Not "#": some servers
	 * end the path there, others do not. Not 0x80 and above: clients encode them. */
	for (size_t i = 0; i < rest.n; i++)
		if (rest.p[i] <= ' ' || rest.p[i] >= 0x7f || rest.p[i] == '#')
			return false;
	h->query = rest;
	h->path = slice_cut(&h->query, '?');
	if (h->path.n == rest.n)
		h->query.p = NULL;
	if (h->path.n == 0)     /* RFC 9112 3.2.1; 3.2.4: of the server, not of its root */
		h->path = rest.n == 0 && slice_eq(h->method, SLICE("OPTIONS")) ? SLICE("*") : SLICE("/");
	return true;
}

/* -- framing and connection */

/* RFC 9110 7.6.1. A field that Connection names is of this hop. What is no token is refused in a
 * request; in an answer it names nothing. */
static bool
http_connection(struct http_head *h, struct slice value, size_t *options, bool *keep, bool *close)
{
	while (value.n != 0) {
		struct slice option = http_trim(slice_cut(&value, ','));

		if (option.n == 0)
			continue;       /* RFC 9110 5.6.1.2: empty members are ignored */
		if (++*options > HTTP_CONNECTION_MAX)
			return false;
		if (!http_is_token(option)) {
			if (h->status == 0)
				return false;
			continue;
		}
		if (slice_eq_nocase(option, SLICE("close")))
			*close = true;
		else if (slice_eq_nocase(option, SLICE("keep-alive")))
			*keep = true;
		else if (slice_eq_nocase(option, SLICE("upgrade")))
			h->upgrade = true;
		for (int i = -1; (i = http_find(h, option, (size_t)(i + 1))) >= 0;)
			h->field[i].rule |= HDR_HOP;
	}
	return true;
}

/* "timeout=5, max=100" (RFC 2068 19.7.1.1), however it is written: `timeout = "5"`, `timeout=5;max=9`.
 * The least counts. A second less, for the server's clock began before ours: a request that meets the
 * end of its connection may not be sent twice. */
static void
http_keep_alive(struct http_head *h, struct slice value, bool *close)
{
	for (; value.n > 7; value.p++, value.n--) {
		size_t at = 7;
		int64_t s = 0;

		if (!slice_begins_nocase(value, SLICE("timeout")))
			continue;
		while (at < value.n && strchr("= \t\"", value.p[at]) != NULL)
			at++;
		if (at == value.n || !isdigit((unsigned char)value.p[at]))
			continue;
		for (; at < value.n && isdigit((unsigned char)value.p[at]) && s < 3600; at++)
			s = s * 10 + value.p[at] - '0';
		if (s <= 1)
			*close = true;
		else if (s < 3600 && (h->keep_ms == 0 || (s - 1) * 1000 < h->keep_ms))
			h->keep_ms = (s - 1) * 1000;
	}
}

/* All that a head says of itself: lengths, Host, Connection, Expect, Upgrade. NULL, or why it is
 * refused: two readers may read it differently. RFC 9112 6.3 and 6.1, without the repairs that they
 * permit. */
static const char *
http_judge_fields(struct http_head *h)
{
	bool chunked = false, keep = false, close = false;
	size_t options = 0, upgrades = 0;

	for (size_t i = 0; i < h->nfields; i++) {
		struct slice name = h->field[i].name, value = h->field[i].value;

		if (h->field[i].rule == 0)
			continue;       /* all names below have a row */
		h->line = i + 2;
		if (slice_eq_nocase(name, SLICE("content-length"))) {
			if (h->length_given)
				return "two Content-Length fields";
			if (!slice_number(value, INT64_MAX, &h->length))
				return "a Content-Length that is no number";
			h->length_given = true;
		} else if (slice_eq_nocase(name, SLICE("transfer-encoding"))) {
			if (chunked || h->minor == 0 || !slice_eq_nocase(value, SLICE("chunked")))
				return "a Transfer-Encoding other than one chunked in HTTP/1.1";
			chunked = true;
		} else if (slice_eq_nocase(name, SLICE("host")) && h->status == 0) {
			if (h->host.host.p != NULL)
				return "two Host fields";
			h->host = (struct http_authority){value, -1};
			if (value.n != 0 &&
			    !http_parse_authority(value, &h->host.host, &h->host.port))
				return "a malformed Host field";
		} else if (slice_eq_nocase(name, SLICE("connection"))) {
			if (!http_connection(h, value, &options, &keep, &close))
				return "a Connection field that is malformed, or of more than 32 options";
		} else if (h->status != 0 && slice_eq_nocase(name, SLICE("keep-alive"))) {
			http_keep_alive(h, value, &close);
		} else if (slice_eq_nocase(name, SLICE("expect"))) {
			h->expect_continue |= h->minor == 1 && h->status == 0 &&
			    slice_eq_nocase(value, SLICE("100-continue"));
		} else if (slice_eq_nocase(name, SLICE("upgrade"))) {
			h->websocket = ++upgrades == 1 &&
			    slice_eq_nocase(value, SLICE("websocket"));
		}
	}
	h->line = 0;
	if (chunked && h->length_given)
		return "both Content-Length and Transfer-Encoding";
	h->body = chunked ? BODY_CHUNKED : h->length_given ? BODY_LENGTH : BODY_NONE;
	h->keep_alive = !close && (h->minor == 1 || keep);
	h->upgrade &= upgrades != 0 && h->minor == 1;   /* RFC 9110 7.8: ignored in 1.0 */
	h->websocket = h->websocket && h->upgrade;
	return NULL;
}

/* -- heads */

/* 0: HTTP/1.0 or 1.1; 505: another version; 400: none. */
static int
http_parse_version(struct slice s, int *minor)
{
	if (s.n < 6 || memcmp(s.p, "HTTP/", 5) != 0)
		return 400;
	for (size_t i = 5; i < s.n; i++)
		if (!ascii_digit(s.p[i]) && s.p[i] != '.')
			return 400;
	if (s.n != 8 || memcmp(s.p, "HTTP/1.", 7) != 0 || (s.p[7] != '0' && s.p[7] != '1'))
		return 505;
	*minor = s.p[7] - '0';
	return 0;
}

/* method SP target SP version: single spaces (RFC 9112 3). 0 or the status. */
static int
http_parse_request_line(struct slice line, struct http_head *h)
{
	int status;

	h->method = slice_cut(&line, ' ');
	h->target = slice_cut(&line, ' ');
	if (!http_is_token(h->method) || h->method.n > HTTP_METHOD_MAX || h->target.n == 0)
		return 400;
	if ((status = http_parse_version(line, &h->minor)) != 0)
		return status;
	return http_parse_target(h) ? 0 : 400;
}

static ssize_t
http_refuse(struct http_head *h, ssize_t status, const char *why)
{
	h->why = why;
	return status;
}

/* The bytes end before the head does: 0 for "need more", or -431 where there are too many already. */
static ssize_t
http_more(struct http_head *h, size_t n)
{
	return n < HTTP_HEAD_MAX ? 0 : http_refuse(h, -431, "a head of more than 64 KiB");
}

/* A head of either kind: a first line, which begins at `at` and which `first` parses (0 or the status),
 * then the fields. `bad`: the text for a malformed first line. */
static ssize_t
http_parse_head(const char *p, size_t n, size_t at, int (*first)(struct slice, struct http_head *),
    const char *bad, struct http_head *h)
{
	struct slice line;
	const char *why;
	ssize_t r;
	int status;

	memset(h, 0, offsetof(struct http_head, field));
	h->to.port = h->host.port = -1;
	if ((r = http_line(p + at, n - at, &line)) == 0)
		return http_more(h, n);
	status = r < 0 ? 400 : first(line, h);
	if (status != 0)
		return http_refuse(h, -status, status == 505 ? "another version than HTTP/1.1 or HTTP/1.0" : bad);
	at += (size_t)r;
	if ((r = http_parse_fields(p + at, n - at, h->field, HTTP_FIELDS_MAX, &h->nfields)) == 0)
		return http_more(h, n);
	if (r == -431)
		return http_refuse(h, r, "more than 100 header fields");
	if (r < 0) {
		h->line = h->nfields + 2;
		return http_refuse(h, r, "a malformed header field");
	}
	at += (size_t)r;
	if (at > HTTP_HEAD_MAX)
		return http_more(h, at);
	return (why = http_judge_fields(h)) != NULL ? http_refuse(h, -400, why) : (ssize_t)at;
}

static ssize_t
http_parse_request(const char *p, size_t n, struct http_head *h)
{
	size_t at = n >= 2 && p[0] == '\r' && p[1] == '\n' ? 2 : 0; /* RFC 9112 2.2: ignored */
	ssize_t r = http_parse_head(p, n, at, http_parse_request_line, "a malformed request line", h);

	if (r <= 0)
		return r;
	if (h->host.host.p == NULL && h->minor == 1)
		return http_refuse(h, -400, "no Host field");   /* RFC 9112 3.2 */
	/* RFC 9110 9.3.6: what follows CONNECT is the tunnel's */
	if (h->form == HTTP_AUTHORITY && (h->body == BODY_CHUNKED || h->length != 0))
		return http_refuse(h, -400, "a body behind CONNECT");
	return r;
}

/* "HTTP/1.1 200 OK". The phrase may be missing, and the space before it (RFC 9112 4 asks senders
 * for the space; many leave it out). 0 or 400. */
static int
http_parse_status_line(struct slice line, struct http_head *h)
{
	uint64_t status;

	if (line.n < 12 || http_parse_version((struct slice){line.p, 8}, &h->minor) != 0 ||
	    line.p[8] != ' ' || !slice_number((struct slice){line.p + 9, 3}, 999, &status) ||
	    status < 100 || (line.n > 12 && line.p[12] != ' '))
		return 400;
	h->status = (int)status;
	h->reason = http_trim((struct slice){line.p + 12, line.n - 12});
	return http_valid_field_value(h->reason) ? 0 : 400;
}

/* Every fault is the upstream's: -502. */
static ssize_t
http_parse_response(const char *p, size_t n, struct slice request_method, struct http_head *h)
{
	ssize_t r = http_parse_head(p, n, 0, http_parse_status_line, "a malformed status line", h);

	if (r <= 0)
		return r < 0 ? -502 : 0;
	if (h->status < 200 || h->status == 204 || h->status == 304 ||
	    slice_eq(request_method, SLICE("HEAD")) ||
	    (slice_eq(request_method, SLICE("CONNECT")) && h->status < 300)) {
		h->body = BODY_NONE;    /* RFC 9112 6.3, first two rules: whatever the fields say */
	} else if (h->body == BODY_NONE) {
		h->body = BODY_EOF;
		h->keep_alive = false;
	}
	return r;
}

/* -- chunked */

enum chunk_event { CHUNK_MORE, CHUNK_DATA, CHUNK_TRAILERS, CHUNK_END, CHUNK_BAD };

struct http_chunked {           /* all zero to begin with */
	enum {
		CHUNKED_SIZE, CHUNKED_SIZE_LF, CHUNKED_BODY, CHUNKED_BODY_CR,
		CHUNKED_BODY_LF, CHUNKED_TRAILERS, CHUNKED_DONE, CHUNKED_BROKEN,
		/* in an extension: white space behind a size or value; behind ";"; a name, white space behind
		 * it; behind "="; a value that is a token, or quoted; behind "\"; behind the second quote */
		CHUNKED_EXT, CHUNKED_NAME0, CHUNKED_NAME, CHUNKED_NAME_END, CHUNKED_VALUE0, CHUNKED_VALUE,
		CHUNKED_QUOTED, CHUNKED_ESCAPE, CHUNKED_QUOTED_END, CHUNKED_STATES
	} state;
	unsigned digits;        /* of the size now being read */
	uint64_t left;          /* of the chunk: its size, then what has not come */
	uint64_t ext;           /* bytes of extensions beyond those that their data pays for */
	size_t scanned;         /* of the trailer block, by http_head_end */
};

/* Behind a chunk's size, as in the grammar: *( BWS ";" BWS token [ BWS "=" BWS ( token / quoted-string ) ] ).
 * A row is a state, a column a kind of byte; 0: not allowed there. */
enum { EXT_CONTROL, EXT_SPACE, EXT_SEMICOLON, EXT_EQUALS, EXT_QUOTE, EXT_ESCAPE, EXT_CR, EXT_TOKEN, EXT_OTHER, EXT_KINDS };

static const uint8_t http_chunked_next[CHUNKED_STATES][EXT_KINDS] = {
	[CHUNKED_SIZE] = {[EXT_SPACE] = CHUNKED_EXT, [EXT_SEMICOLON] = CHUNKED_NAME0, [EXT_CR] = CHUNKED_SIZE_LF},
	[CHUNKED_EXT] = {[EXT_SPACE] = CHUNKED_EXT, [EXT_SEMICOLON] = CHUNKED_NAME0},
	[CHUNKED_NAME0] = {[EXT_SPACE] = CHUNKED_NAME0, [EXT_TOKEN] = CHUNKED_NAME},
	[CHUNKED_NAME] = {[EXT_SPACE] = CHUNKED_NAME_END, [EXT_SEMICOLON] = CHUNKED_NAME0,
	    [EXT_EQUALS] = CHUNKED_VALUE0, [EXT_CR] = CHUNKED_SIZE_LF, [EXT_TOKEN] = CHUNKED_NAME},
	[CHUNKED_NAME_END] = {[EXT_SPACE] = CHUNKED_NAME_END, [EXT_SEMICOLON] = CHUNKED_NAME0,
	    [EXT_EQUALS] = CHUNKED_VALUE0},
	[CHUNKED_VALUE0] = {[EXT_SPACE] = CHUNKED_VALUE0, [EXT_QUOTE] = CHUNKED_QUOTED, [EXT_TOKEN] = CHUNKED_VALUE},
	[CHUNKED_VALUE] = {[EXT_SPACE] = CHUNKED_EXT, [EXT_SEMICOLON] = CHUNKED_NAME0, [EXT_CR] = CHUNKED_SIZE_LF,
	    [EXT_TOKEN] = CHUNKED_VALUE},
	[CHUNKED_QUOTED] = {[EXT_SPACE ... EXT_EQUALS] = CHUNKED_QUOTED, [EXT_QUOTE] = CHUNKED_QUOTED_END,
	    [EXT_ESCAPE] = CHUNKED_ESCAPE, [EXT_TOKEN ... EXT_OTHER] = CHUNKED_QUOTED},
	[CHUNKED_ESCAPE] = {[EXT_SPACE ... EXT_ESCAPE] = CHUNKED_QUOTED, [EXT_TOKEN ... EXT_OTHER] = CHUNKED_QUOTED},
	[CHUNKED_QUOTED_END] = {[EXT_SPACE] = CHUNKED_EXT, [EXT_SEMICOLON] = CHUNKED_NAME0, [EXT_CR] = CHUNKED_SIZE_LF},
};

/* One byte of an extension. Extensions are ignored, which RFC 9112 7.1.1 requires for unknown ones.
 * HTTP_CHUNK_EXT_MAX stops a sender who sends little else. */
static bool
http_chunked_ext(struct http_chunked *c, char ch)
{
	static const char marks[] = " ;=\"\\\r";        /* in the order of kinds */
	const char *mark = strchr(marks, ch == '\t' ? ' ' : ch);
	int kind = ch == '\0' ? EXT_CONTROL : mark != NULL ? EXT_SPACE + (int)(mark - marks) :
	    http_is_control(ch) ? EXT_CONTROL : http_is_tchar(ch) ? EXT_TOKEN : EXT_OTHER;

	if (c->state != CHUNKED_SIZE && ch != '\r' && ++c->ext > HTTP_CHUNK_EXT_MAX)
		return false;
	c->state = http_chunked_next[c->state][kind];
	return c->state != 0;
}

/* One byte of framing. False: broken. */
static bool
http_chunked_byte(struct http_chunked *c, char ch)
{
	int digit = hex_digit(ch);

	switch (c->state) {
	case CHUNKED_SIZE:
		if (digit >= 0) {
			if (++c->digits > HTTP_CHUNK_DIGITS_MAX || c->left > INT64_MAX >> 4)
				return false;
			c->left = c->left << 4 | (uint64_t)digit;
			return true;
		}
		return c->digits != 0 && http_chunked_ext(c, ch);
	case CHUNKED_SIZE_LF:
		c->state = c->left != 0 ? CHUNKED_BODY : CHUNKED_TRAILERS;
		c->ext -= c->ext < c->left ? c->ext : c->left;
		return ch == '\n';
	case CHUNKED_BODY_CR:
		c->state = CHUNKED_BODY_LF;
		return ch == '\r';
	case CHUNKED_BODY_LF:
		c->state = CHUNKED_SIZE;
		c->digits = 0;
		return ch == '\n';
	default:                /* where no extension may stand, http_chunked_next allows nothing */
		return http_chunked_ext(c, ch);
	}
}

/* The trailer section must lie whole in [p, n): an empty one ends the body, another is handed
 * out. */
static enum chunk_event
http_chunked_trailers(struct http_chunked *c, const char *p, size_t n, size_t *used,
    struct slice *data)
{
	struct http_field field[HTTP_TRAILER_FIELDS_MAX];
	size_t count;
	ssize_t end;

	if (p[0] == '\r' && n < 2)
		return CHUNK_MORE;
	if (p[0] == '\r') {
		*used = 2;
		c->state = p[1] == '\n' ? CHUNKED_DONE : CHUNKED_BROKEN;
		return p[1] == '\n' ? CHUNK_END : CHUNK_BAD;
	}
	end = http_head_end(p, n, &c->scanned);
	if (end == 0 && n < HTTP_TRAILERS_MAX)
		return CHUNK_MORE;
	*data = (struct slice){p, (size_t)end};
	if (end <= 0 || end > HTTP_TRAILERS_MAX ||
	    http_parse_fields(p, (size_t)end, field, HTTP_TRAILER_FIELDS_MAX, &count) != end) {
		c->state = CHUNKED_BROKEN;
		*data = (struct slice){p, 0};
		return CHUNK_BAD;
	}
	*used = (size_t)end;
	c->state = CHUNKED_DONE;
	return CHUNK_TRAILERS;
}

/* Reads up to n bytes; `used` of them are done with. CHUNK_DATA: `data` is a run of the body
 * within p. CHUNK_TRAILERS: `data` is the whole section, field lines and the empty line;
 * CHUNK_END comes next. CHUNK_MORE with bytes left over: they are the beginning of trailers;
 * offer them again with more behind them, at most HTTP_TRAILERS_MAX. */
static enum chunk_event
http_chunked_step(struct http_chunked *c, const char *p, size_t n, size_t *used, struct slice *data)
{
	enum chunk_event e;
	size_t i = 0, k = 0;

	*used = 0;
	*data = (struct slice){p, 0};
	if (c->state == CHUNKED_DONE)
		return CHUNK_END;
	for (; i < n; i++) {
		if (c->state == CHUNKED_BODY) {
			*data = (struct slice){p + i, n - i < c->left ? n - i : (size_t)c->left};
			*used = i + data->n;
			if ((c->left -= data->n) == 0)
				c->state = CHUNKED_BODY_CR;
			return CHUNK_DATA;
		}
		if (c->state == CHUNKED_TRAILERS) {
			e = http_chunked_trailers(c, p + i, n - i, &k, data);
			*used = i + k;
			return e;
		}
		if (!http_chunked_byte(c, p[i])) {
			c->state = CHUNKED_BROKEN;
			return CHUNK_BAD;
		}
	}
	*used = i;
	return CHUNK_MORE;
}

/* ---- peer ------------------------------------------------------------------
 * One end of a connection, plain or TLS, seen as two streams of bytes. A peer borrows its wire
 * buffers from a pool while bytes are in them and gives them back when they are empty, so an idle
 * connection owns none. A writer asks peer_room first: then one piece of PEER_PIECE and its framing
 * always fit, and back-pressure is not reading the other side. */
#define PEER_READ (64 * 1024)   /* one read(2): several TLS records */
#define PEER_PIECE (16 * 1024)  /* one write to a peer at most: a TLS record */
#define PEER_OUT_HIGH (72 * 1024) /* no more is accepted above: four records and their overhead */
#define PEER_OUT_HEAD (16 * 1024) /* a whole head is written only below this */
#define PEER_HEAD_MAX (84 * 1024) /* a head we send: the 64 KiB of one that came, and what was added */
#define PEER_OUT_MAX (PEER_OUT_HIGH + 40 * 1024) /* two records and framing above the mark */
#define PEER_POOL_MAX 8         /* idle buffers kept: two connections use four at a time; more go back */

enum io { IO_OK, IO_AGAIN, IO_EOF, IO_ERR };

struct wirebuf {
	struct wirebuf *next;   /* in the pool */
	size_t off, n;          /* bytes [off, n) are in use */
	char p[PEER_OUT_MAX];
};

struct peer {
	struct watch watch;
	struct tls *tls;        /* owned; NULL: plain */
	struct peer *under;     /* owned; TLS to the proxy itself, below that of a tunnel; NULL: none */
	struct handover *over;  /* owned; takes descriptors that come with the bytes; NULL: they are dropped */
	struct h2 *h2;          /* owned; HTTP/2 is spoken here, and each stream is the wire of another peer */
	struct stream *stream;  /* owned; this is such a peer */
	struct wirebuf *in;     /* owned while bytes from the wire wait; else NULL */
	struct wirebuf *out;    /* owned while bytes for the wire wait; else NULL */
	bool eof;               /* the wire ended */
	bool failed;            /* reading or writing failed */
	bool shut;              /* behind what waits there is no more: a stream is ended then */
	bool hold_alerts;       /* an alert is not taken from the wire yet; it counts as IO_EOF */
	bool send_failed;       /* writing did: what had come before may still be read */
	uint64_t received;      /* plaintext bytes */
};

static struct pool wirebuf_pool;

static struct wirebuf *
wirebuf_get(void)
{
	struct wirebuf *b = pool_get(&wirebuf_pool);

	if (b != NULL || (b = malloc(sizeof *b)) != NULL)
		b->off = b->n = 0;
	return b;
}

/* Gives a buffer back to the pool. `plain`: its bytes are plaintext, may hold a credential, and are
 * wiped; TLS records need no wiping. */
static void
wirebuf_put(struct wirebuf **bp, bool plain)
{
	struct wirebuf *b = *bp;

	if (b == NULL)
		return;
	*bp = NULL;
	if (plain)
		wipe(b->p, b->n);
	if (!pool_put(&wirebuf_pool, b, PEER_POOL_MAX))
		free(b);
}

/* Takes n bytes off the front. `plain`: as of wirebuf_put. */
static void
wirebuf_took(struct wirebuf **b, size_t n, bool plain)
{
	(*b)->off += n;
	if ((*b)->off == (*b)->n)
		wirebuf_put(b, plain);
}

static void
peer_init(struct peer *p, int fd, void (*ready)(struct watch *))
{
	*p = (struct peer){.watch = {.fd = fd, .ready = ready}};
}

static void
peer_close(struct peer *p)
{
	if (p->h2 != NULL || p->stream != NULL)
		h2_leave(p);
	watch_close(&p->watch);
	if (p->under != NULL) {
		p->under->watch.fd = -1;        /* it was the same */
		peer_close(p->under);
		free(p->under);
		p->under = NULL;
	}
	wirebuf_put(&p->in, p->tls == NULL);
	wirebuf_put(&p->out, p->tls == NULL);
	tls_free(p->tls);
	p->tls = NULL;
}

/* Takes from the wire what the kernel has, up to PEER_READ. */
static enum io
peer_read_wire(struct peer *p)
{
	ssize_t n;

	if (p->failed && !p->send_failed)
		return IO_ERR;
	if (p->eof)
		return IO_EOF;
	if (!p->watch.readable)
		return IO_AGAIN;
	if (p->in == NULL && (p->in = wirebuf_get()) == NULL)
		return IO_ERR;
	p->in->off = p->in->n = 0;
	do
		n = p->stream != NULL ? stream_read(p, p->in->p, PEER_READ) :
		    p->under != NULL ? under_read(p, p->in->p, PEER_READ) : p->over != NULL ?
		    handover_read(p->over, p->watch.fd, p->in->p, PEER_READ) : read(p->watch.fd, p->in->p, PEER_READ);
	while (n < 0 && errno == EINTR);
	if (n > 0) {
		p->in->n = (size_t)n;
		/* Less than we asked for: the kernel has no more, and will say when it has (edge). */
		if (n < PEER_READ && !p->watch.hup && p->under == NULL && p->stream == NULL)
			p->watch.readable = false;
		return IO_OK;
	}
	wirebuf_put(&p->in, p->tls == NULL);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
		p->watch.readable = false;
		return IO_AGAIN;
	}
	if (n == 0) {
		p->eof = true;
		return p->send_failed ? IO_ERR : IO_EOF; /* a message without a length may have been cut */
	}
	p->failed = true;
	return IO_ERR;
}

/* Plaintext that waits to be taken; empty when there is none yet. */
static struct slice
peer_data(struct peer *p)
{
	if (p->tls != NULL)
		return tls_peek(p->tls);
	if (p->in == NULL)
		return (struct slice){NULL, 0};
	return (struct slice){p->in->p + p->in->off, p->in->n - p->in->off};
}

static void
peer_consume(struct peer *p, size_t n)
{
	p->received += n;
	if (p->tls != NULL)
		tls_consume(p->tls, n);
	else
		wirebuf_took(&p->in, n, true);
}

/* Makes sure of an out buffer whose free room lies at its end. False: no memory. */
static bool
peer_out_reserve(struct peer *p)
{
	if (p->out == NULL)
		return (p->out = wirebuf_get()) != NULL;
	if (p->out->off != 0) {
		size_t left = p->out->n - p->out->off;

		memmove(p->out->p, p->out->p + p->out->off, left);
		if (p->tls == NULL)
			wipe(p->out->p + left, p->out->n - left);
		p->out->n = left;
		p->out->off = 0;
	}
	return true;
}

/* Moves finished records from the engine to the out buffer. */
static bool
peer_drain(struct peer *p)
{
	while (p->tls != NULL && tls_has_output(p->tls)) {
		size_t n;

		if (!peer_out_reserve(p))
			return false;
		n = tls_drain(p->tls, p->out->p + p->out->n, sizeof p->out->p - p->out->n);
		if (n == 0)
			return false;
		p->out->n += n;
	}
	return true;
}

static enum io peer_flush(struct peer *);        /* peer_fill sends the alert when the engine fails */

/* Reads until peer_data is not empty. IO_EOF: the peer ended cleanly (plain: the wire; TLS:
 * close_notify). A TLS wire that ends without close_notify is IO_ERR: an attacker who cuts it could
 * otherwise pass a part for the whole (RFC 8446 6.1, RFC 9112 9.8). */
static enum io
peer_fill(struct peer *p)
{
	for (;;) {
		enum io io;

		if (p->tls != NULL && p->in != NULL && p->in->off < p->in->n) {
			size_t took;

			if (p->hold_alerts && tls_alert_next(p->tls, p->in->p + p->in->off))
				return IO_EOF;
			took = tls_feed(p->tls, p->in->p + p->in->off, p->in->n - p->in->off);
			wirebuf_took(&p->in, took, false);
			if (p->in != NULL && tls_peek(p->tls).n == 0 && tls_status(p->tls) < TLS_CLOSED) {
				/* The engine takes no more before its own output, a flight or alert, is taken. */
				if (!tls_has_output(p->tls) || !peer_drain(p))
					return IO_AGAIN;
				continue;
			}
		}
		if (peer_data(p).n != 0)
			return IO_OK;
		if (p->tls != NULL && tls_status(p->tls) == TLS_FAILED) {
			peer_flush(p);  /* sends our alert, during a handshake too */
			return IO_ERR;
		}
		if (p->tls != NULL && tls_status(p->tls) == TLS_CLOSED)
			return IO_EOF;
		if (p->tls != NULL && p->tls->lent)
			return IO_AGAIN;        /* else an end of the wire would hide why a chain was refused */
		if ((io = peer_read_wire(p)) != IO_OK)
			return io == IO_EOF && p->tls != NULL ? IO_ERR : io;
	}
}

static size_t
peer_pending(const struct peer *p)
{
	return (p->out == NULL ? 0 : p->out->n - p->out->off) + (p->under == NULL ? 0 : peer_pending(p->under));
}

/* Accepts all n bytes, or fails the peer. See peer_room. */
static bool
peer_put(struct peer *p, const void *data, size_t n)
{
	const char *at = data;

	if (p->tls == NULL) {
		if (n == 0)
			return true;
		if (!peer_out_reserve(p) || n > sizeof p->out->p - p->out->n)
			return !(p->failed = true);
		memcpy(p->out->p + p->out->n, data, n);
		p->out->n += n;
		return true;
	}
	while (n != 0) {
		size_t took = tls_write(p->tls, at, n);

		at += took;
		n -= took;
		if (n != 0 && (!tls_has_output(p->tls) || !peer_drain(p)))
			return !(p->failed = true);
	}
	return true;
}

/* Sends what waits. IO_OK: nothing waits any more. */
static enum io
peer_flush(struct peer *p)
{
	if (p->failed)
		return IO_ERR;
	if (p->stream != NULL)
		return (enum io)stream_flush(p);
	if (p->tls != NULL)
		tls_flush(p->tls);
	for (;;) {
		ssize_t n;

		if (peer_pending(p) < PEER_OUT_HIGH && !peer_drain(p))
			return p->failed = true, IO_ERR;
		if (p->out == NULL)
			return p->under == NULL ? IO_OK : (enum io)under_flush(p);
		if (!p->watch.writable)
			return IO_AGAIN;
		n = p->under != NULL ? under_send(p, p->out->p + p->out->off, p->out->n - p->out->off) :
		    send(p->watch.fd, p->out->p + p->out->off, p->out->n - p->out->off, MSG_NOSIGNAL);
		if (n > 0) {
			if (p->tls == NULL)
				wipe(p->out->p + p->out->off, (size_t)n);
			wirebuf_took(&p->out, (size_t)n, p->tls == NULL);
		} else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			p->watch.writable = false;
		} else if (n < 0 && errno != EINTR) {
			p->failed = p->send_failed = p->watch.readable = true;
			return IO_ERR;
		}
	}
}

/* Moves the bytes of an arriving head from `p` to `b`. `*whole`: the head has its end, or is longer than
 * HTTP_HEAD_MAX. False: no memory. */
static bool
peer_take_head(struct peer *p, struct buf *b, size_t *scanned, bool *whole)
{
	struct slice in = peer_data(p);
	size_t had = b->n;
	ssize_t end;

	if (in.n > HTTP_HEAD_MAX - had)
		in.n = HTTP_HEAD_MAX - had;
	if (!buf_add(b, in.p, in.n))
		return false;
	end = http_head_end(b->p, b->n, scanned);
	peer_consume(p, end > 0 ? (size_t)end - had : in.n);
	if (end > 0)
		buf_cut(b, (size_t)end);
	*whole = end != 0 || b->n == HTTP_HEAD_MAX;
	return true;
}

/* Do fewer bytes wait than `below`, now or after a flush? Where not, p->failed tells why. */
static bool
peer_room(struct peer *p, size_t below)
{
	return peer_pending(p) < below || (peer_flush(p) != IO_ERR && peer_pending(p) < below);
}

/* Drives a handshake. IO_OK: open. */
static enum io
peer_handshake(struct peer *p)
{
	for (;;) {
		enum io io = peer_flush(p);

		if (io == IO_ERR || tls_status(p->tls) != TLS_HANDSHAKE)
			return io != IO_ERR && tls_status(p->tls) == TLS_OPEN ? IO_OK : IO_ERR;
		io = peer_fill(p);
		if (tls_has_output(p->tls) || tls_status(p->tls) == TLS_OPEN)
			continue;       /* our next flight, or an alert that says why not */
		if (io != IO_OK)
			return io == IO_AGAIN ? IO_AGAIN : IO_ERR;
	}
}

/* Gives the engine's record buffers back if no bytes wait either way. */
static void
peer_park(struct peer *p)
{
	if (p->tls != NULL && p->in == NULL && p->out == NULL)
		tls_park(p->tls);
	if (p->under != NULL)
		peer_park(p->under);
}

/* -- upstream: a connection we dialled, owned by one request or net call at a time, or idle in the
 * pool. Idle ones are kept per (agent, host, port, client certificate, upstream proxy): one agent's
 * connection, with whatever the server remembers of it, is never another's. */
#define UPSTREAM_IDLE_MS 60000  /* below the 75 s of nginx and most load balancers; a server may say less */
#define UPSTREAM_IDLE_MAX 256   /* of a worker */
#define UPSTREAM_KEY_MAX 640
#define UPSTREAM_TLS_MS 10000   /* DESIGN, Limits: handshake 10 s */
#define UPSTREAM_HTTP1 64       /* servers that want HTTP/1.1, which a worker remembers */
#define UPSTREAM_HTTP1_MS 3600000 /* for so long: it may be set up anew, and is asked over HTTP/2 again */

enum upstream_state { UP_DIAL, UP_VIA, UP_HANDSHAKE, UP_OPEN, UP_FAILED };

struct upstream {
	struct defer reap;      /* first, for defer_free */
	struct peer peer;
	struct dial dial;
	struct timer timer;
	enum upstream_state state;
	const char *code, *why; /* static, or `why` is in `via_why`; set when UP_FAILED, `why` also when a stream was reset */
	TAILQ_ENTRY(upstream) link; /* while it is idle */
	bool idle;
	uint64_t requests;      /* how many it served before this one */
	bool tls;
	bool h2;                /* HTTP/2 may be spoken: it is offered; without TLS it is known */
	bool leads;             /* and not yet known to be, nor for how many streams: requests of its key wait */
	bool awaited;           /* one does */
	LIST_ENTRY(upstream) h2_link; /* where `h2`, unless it is a stream */
	bool unread;            /* its bytes are relayed unread: the server may be the first to speak */
	unsigned trusts;        /* upstream_trusts when it was made */
	unsigned via;           /* via.epoch of the upstream proxy that it goes through; 0: none */
	struct buf via_head;    /* owned; the proxy's answer as it comes (UP_VIA) */
	size_t via_scanned;
	unsigned via_interim;   /* 1xx heads that came */
	char via_why[128];
	bool late;              /* it failed for want of time: another try may do */
	bool again;             /* BearSSL's handshake failed, and OpenSSL's is made */
	bool refused;           /* of HTTP/2: the server has done nothing of the request (RFC 9113 8.7) */
	bool tainted;           /* saw NTLM or Negotiate: the connection itself is authenticated */
	int64_t keep_ms;        /* how long it may be idle */
	char host[256];
	uint16_t port;
	struct tls_ident *ident; /* owned reference, or NULL; until TLS begins */
	struct endpoint at;     /* what it is connected to, or the server behind the upstream proxy, if an address */
	bool guarded;           /* the guard let `at`: it must still do so when it is taken again */
	void *owner;            /* borrowed: told by event; NULL while idle */
	void (*event)(struct upstream *);
	uint32_t hash;          /* of key */
	char key[UPSTREAM_KEY_MAX];
};

static TAILQ_HEAD(upstreams, upstream) upstream_idle = TAILQ_HEAD_INITIALIZER(upstream_idle); /* newest first */
static size_t upstream_idle_n;
static LIST_HEAD(, upstream) upstream_h2 = LIST_HEAD_INITIALIZER(upstream_h2); /* newest first */
static struct tls_trust *upstream_trust; /* owned; the system's roots and upstream-ca */
static unsigned upstream_trusts;        /* how often upstream_trust was replaced */

static void
upstream_unlink(struct upstream *u)
{
	if (!u->idle)
		return;
	TAILQ_REMOVE(&upstream_idle, u, link);
	u->idle = false;
	upstream_idle_n--;
}

static void
upstream_free(struct upstream *u)
{
	upstream_unlink(u);
	timer_stop(&u->timer);
	if (u->h2 && u->peer.stream == NULL)
		LIST_REMOVE(u, h2_link);
	if (u->leads)           /* where its own request left it in the dial, another may lead */
		h2_settled(u, u->state == UP_FAILED || u->peer.h2 != NULL);
	if (u->state == UP_DIAL)
		net_dial_cancel(&u->dial);
	if (u->state == UP_OPEN && u->peer.tls != NULL && !u->peer.failed && u->peer.out == NULL) {
		tls_shutdown(u->peer.tls);      /* OpenSSL's servers forget a session that was cut */
		peer_flush(&u->peer);
	}
	peer_close(&u->peer);
	buf_free(&u->via_head);
	tls_ident_unref(u->ident);
	u->ident = NULL;
	u->owner = NULL;
	loop_defer(&u->reap, defer_free);
}

static void
upstream_fail(struct upstream *u, const char *code, const char *why)
{
	timer_stop(&u->timer);
	u->state = UP_FAILED;
	u->code = code;
	u->why = why;
}

static void
upstream_redial(struct timer *t)
{
	struct upstream *u = OWNER(t, struct upstream, timer);

	if (u->via != 0)
		net_dial(&u->dial, via.host, via.port, false);
	else
		net_dial(&u->dial, u->host, u->port, u->dial.path == NULL);
}

static void
upstream_shake(struct upstream *u)
{
	enum io io = peer_handshake(&u->peer);

	if (io == IO_OK) {
		timer_stop(&u->timer);
		u->state = UP_OPEN;
		if (u->again)
			ossl_wanted(u->host, u->port, true);
	} else if (io != IO_AGAIN && !u->again && tls_engine == ENGINE_AUTO && tls_unable(u->peer.tls) && ossl_load()) {
		u->again = true;
		u->state = UP_DIAL;
		peer_close(&u->peer);
		timer_set(&u->timer, 0, upstream_redial);       /* not from within the event of the first dial */
	} else if (io != IO_AGAIN) {
		upstream_fail(u, clock_unset() ? "clock_unset" : "upstream_tls",
		    tls_status(u->peer.tls) == TLS_FAILED ? tls_why(u->peer.tls) :
		    "the connection ended during the TLS handshake");
	}
}

static void
upstream_ready(struct watch *w)
{
	struct upstream *u = OWNER(w, struct upstream, peer.watch);

	if (u->state == UP_HANDSHAKE)
		upstream_shake(u);
	else if (u->state == UP_VIA)
		via_advance(u);
	u->event(u);
}

static void
upstream_timeout(struct timer *t)
{
	struct upstream *u = OWNER(t, struct upstream, timer);

	if (u->owner == NULL) {
		upstream_free(u);
		return;
	}
	u->late = true;
	if (u->state == UP_VIA)
		via_failf(u, "%s", "did not answer in time");
	else
		upstream_fail(u, "upstream_tls", "the TLS handshake took too long");
	u->event(u);
}

/* A way to the server is open: begins TLS, if any. */
static void
upstream_reached(struct upstream *u)
{
	bool openssl = tls_engine == ENGINE_OPENSSL || (tls_engine == ENGINE_AUTO && (u->again || ossl_wanted(u->host, u->port, false)));

	if (!u->tls) {
		u->state = UP_OPEN;
	} else if (clock_unset()) {
		upstream_fail(u, "clock_unset", "this machine's clock is not set");
	} else if (openssl && !ossl_load()) {
		upstream_fail(u, "upstream_tls", "upstream-tls is openssl, and that cannot be loaded: see sallyport doctor");
	} else if ((u->peer.tls = tls_connect(upstream_trust, u->ident, slice_of(u->host), u->port, tls_ident_tag(u->ident), u->h2,
	    openssl ? ENGINE_OPENSSL : ENGINE_BEARSSL, &u->peer.watch, u->dial.owner)) == NULL) {
		upstream_fail(u, "upstream_tls", "out of memory");
	} else {
		u->state = UP_HANDSHAKE;
		timer_set(&u->timer, clock_now() + UPSTREAM_TLS_MS, upstream_timeout);
		u->peer.watch.writable = true;
		upstream_shake(u);
	}
}

/* Of a way through the upstream proxy: makes u->at the server, for the guard. False: only its name is known. */
static bool
upstream_at_host(struct upstream *u)
{
	u->at.port = u->port;
	return addr_parse(slice_of(u->host), &u->at.addr);
}

static void
upstream_dialled(struct dial *d, int fd, const char *code, const char *why)
{
	struct upstream *u = OWNER(d, struct upstream, dial);

	if (fd >= 0) {
		u->at = d->at[d->next - 1];
		u->guarded = u->via != 0 ? upstream_at_host(u) : d->guarded;
		peer_init(&u->peer, fd, upstream_ready);
		net_keepalive(fd);
	}
	if (fd < 0 && u->via != 0) {
		via_failf(u, "cannot be reached: %s", why);
	} else if (fd < 0) {
		upstream_fail(u, code, why);
	} else if (!watch_add(&u->peer.watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)) {
		upstream_fail(u, "upstream_unreachable", "out of memory");
	} else if (u->via != 0) {
		u->state = UP_VIA;
		timer_set(&u->timer, d->deadline, upstream_timeout);
		via_begin(u);
	} else {
		upstream_reached(u);
	}
	u->event(u);
}

/* A new upstream, not dialled: the caller sets owner and event, then calls upstream_dial. `through`: by
 * way of the upstream proxy. NULL: no memory. */
static struct upstream *
upstream_new(const char *key, const char *host, uint16_t port, bool use_tls,
    struct tls_ident *ident, bool through)
{
	struct upstream *u = malloc(sizeof *u);

	if (u == NULL)
		return NULL;
	*u = (struct upstream){.peer.watch.fd = -1, .keep_ms = UPSTREAM_IDLE_MS, .tls = use_tls,
	    .trusts = upstream_trusts, .via = through ? via.epoch : 0, .via_head.max = HTTP_HEAD_MAX,
	    .ident = tls_ident_ref(ident), .port = port, .state = UP_DIAL, .hash = text_hash(key)};
	text_copy(u->host, sizeof u->host, host);
	text_copy(u->key, sizeof u->key, key);
	return u;
}

/* `event` is called whenever state or readiness changed, perhaps before this returns. An address is
 * judged by the guard whoever dials it; a name that the upstream proxy resolves was judged in Lua. */
static void
upstream_dial(struct upstream *u, const struct cidr *allow, size_t nallow)
{
	const char *why;

	if (u->via != 0 && via.host[0] == '\0')
		via_failf(u, "%s", "was taken away meanwhile");
	else if (u->via != 0 && upstream_at_host(u) && (why = net_guard(&u->at, allow, nallow)) != NULL)
		upstream_fail(u, "address_blocked", why);
	if (nallow != 0)
		memcpy(u->dial.allow, allow, nallow * sizeof *allow);
	u->dial.nallow = nallow;
	u->dial.done = upstream_dialled;
	if (u->state == UP_FAILED)
		u->event(u);
	else
		upstream_redial(&u->timer);
}

/* An idle upstream of that key whose address may still be dialled, or NULL. */
static struct upstream *
upstream_take(const char *key, const struct cidr *allow, size_t nallow)
{
	uint32_t hash = text_hash(key);

	for (struct upstream *u = TAILQ_FIRST(&upstream_idle); u != NULL; u = TAILQ_NEXT(u, link)) {
		if (u->hash == hash && strcmp(u->key, key) == 0 &&
		    (!u->guarded || net_guard(&u->at, allow, nallow) == NULL) &&
		    !u->peer.watch.hup && !u->peer.watch.readable) {
			upstream_unlink(u);
			timer_stop(&u->timer);
			return u;
		}
	}
	return NULL;
}

/* Does the server of that key, which offers HTTP/2, want HTTP/1.1 (RFC 9113 7, HTTP_1_1_REQUIRED)? `told`: it says so now. */
static bool
upstream_wants_http1(const char *key, bool told)
{
	static struct { int64_t until; char key[UPSTREAM_KEY_MAX]; } all[UPSTREAM_HTTP1], *one; /* by the key's hash */

	one = &all[text_hash(key) % COUNT(all)];
	if (told) {
		text_copy(one->key, sizeof one->key, key);
		one->until = clock_now() + UPSTREAM_HTTP1_MS;
	}
	return clock_now() < one->until && strcmp(one->key, key) == 0;
}

/* Into the pool, and out of it when its time has come. */
static void
upstream_rest(struct upstream *u)
{
	if (upstream_idle_n == UPSTREAM_IDLE_MAX)
		upstream_free(TAILQ_LAST(&upstream_idle, upstreams));
	peer_park(&u->peer);
	TAILQ_INSERT_HEAD(&upstream_idle, u, link);
	u->idle = true;
	upstream_idle_n++;
	timer_set(&u->timer, clock_now() + u->keep_ms, upstream_timeout);
}

/* The owner is done. An upstream goes to the pool only if `reusable` (the answer was complete), no byte
 * is left over, the connection carries no authentication of its own, and what it was made with still holds:
 * the trusted roots, the upstream proxy. */
static void
upstream_release(struct upstream *u, bool reusable)
{
	u->owner = NULL;
	u->event = upstream_free;       /* while it is idle something may come: its end, or bytes that answer no request */
	if (!reusable || u->state != UP_OPEN || u->tainted || u->peer.stream != NULL || u->peer.in != NULL ||
	    u->peer.out != NULL || peer_data(&u->peer).n != 0 || u->peer.watch.hup ||
	    u->peer.eof || u->peer.failed || u->trusts != upstream_trusts || (u->via != 0 && u->via != via.epoch)) {
		upstream_free(u);
		return;
	}
	u->requests++;
	upstream_rest(u);
}

/* Closes the upstream, and never pools it. */
static void
upstream_drop(struct upstream **u)
{
	if (*u != NULL)
		upstream_release(*u, false);
	*u = NULL;
}

/* ---- flow ------------------------------------------------------------------
 * Bytes from one end to another: a body that is relayed, read for a policy, or answered from memory; a
 * request of our own and its answer; each direction of a tunnel or WebSocket. Invariants:
 * - An end is a peer, or memory. flow_take and flow_put alone touch an end, and only through peer_fill,
 *   peer_consume, peer_room and peer_put: whether a peer is a whole connection or one stream of several
 *   is the peer's affair.
 * - Framing comes off in flow_take and goes on in flow_put. BODY_EOF is raw: bytes until the source ends.
 * - Nothing is taken unless the destination has room. A piece of the source is consumed when all that
 *   became of the piece lies at the destination: back-pressure is not reading on. Of the bytes a flow
 *   itself keeps only a trailer section that spans reads.
 * - A filter stands between the two, in either direction, and knows neither end nor framing.
 * - A turn is bounded (FLOW_TURN_MAX), whatever the pieces cost.
 * - A flow closes nothing and has no deadline: enum flow_io tells its owner which end is gone, and what
 *   waits at the ends tells which of them stalls. */
#define FLOW_TURN_MAX (1024 * 1024) /* bytes a flow may move before other connections have their turn */
#define FLOW_PIECE_COST 256     /* a chunk or a frame costs as much as so many bytes, however short it is */
#define FLOW_BUF_KEEP 4096      /* a buffer that is used again keeps no more; a larger head is rare */
#define REQ_BODIES_MAX (64 * 1024 * 1024) /* all bodies held for policies, of a worker */
#define REQ_BODIES_SHARE (REQ_BODIES_MAX / 4 * 3) /* of those, one agent's: it leaves the largest to another */

/* -- bodies that are held in memory: every byte of them is counted */
static size_t req_bodies;               /* bytes of bodies held by this worker */

/* Counts n bytes in the place of `was`. False: there is no room for more, and `was` stay counted. `share`: the
 * bytes that one agent holds; NULL: no agent's. A body counts whole as soon as its length is known. */
static bool
bodies_count(size_t *share, size_t was, size_t n)
{
	if (n > was && (n - was > REQ_BODIES_MAX - req_bodies ||
	    (share != NULL && (*share > REQ_BODIES_SHARE || n - was > REQ_BODIES_SHARE - *share))))
		return false;
	req_bodies += n - was;
	if (share != NULL)
		*share += n - was;
	return true;
}

/* -- filters: a filter rewrites a body as it streams. The bytes that it must hold (a signed chunk, say)
 * are within its own bound, and counted in req_bodies. */
struct filter {
	const struct filter_class *class;
	const struct filter_fault *fault; /* static; why it refused the body. NULL: it is malformed */
	bool more;              /* it holds output: to be run again before it gets new input */
	bool ended;             /* it has given its last byte */
	uint64_t cost;          /* of this run's work beside the bytes themselves, in bytes of a turn */
	int64_t hold_until;     /* monotonic ms: it holds bytes, and is run with `hurry` then; 0: it holds none */
	bool hurry;             /* its owner sets it: what it holds goes on */
	size_t *share;          /* borrowed: what its agent holds of req_bodies; NULL: no agent's */
};

/* Our answer to a request whose body a filter refuses. */
struct filter_fault {
	int status;
	const char *code, *message, *hint;
};

struct filter_class {
	size_t size;            /* of the struct that begins with struct filter; zeroed when attached */
	bool keeps_length;      /* else the body goes out chunked */
	bool keeps_trailers;    /* else they are dropped: they speak of the body before the filter */
	/* Takes bytes of `in`: how many, -1 for a body that it refuses. Points *out, which is empty, at its
	 * output: up to PEER_PIECE bytes in memory of its own or in `in`, good until it runs again. `end`:
	 * nothing comes after `in`. Sets f->ended then, once all is given. */
	ssize_t (*run)(struct filter *f, struct slice in, bool end, struct slice *out);
	void (*wipe)(struct filter *f); /* or NULL */
};

static struct filter *
filter_alloc(const struct filter_class *k)
{
	struct filter *f = calloc(1, k->size);

	if (f != NULL)
		f->class = k;
	return f;
}

static void
filter_free(struct filter *f)
{
	if (f == NULL)
		return;
	if (f->class->wipe != NULL)
		f->class->wipe(f);
	free(f);
}

/* -- the flow itself */
struct flow {
	struct peer *src, *dst; /* borrowed; NULL: memory, the last `left` bytes of `from`, or `into` */
	struct slice from;      /* borrowed; with a source, what goes ahead of its bytes */
	struct buf *into;       /* borrowed */
	size_t enough;          /* bytes in `into` after which it waits; 0: it does not */
	int mode;               /* enum http_body: how the source is framed */
	uint64_t left;          /* BODY_LENGTH */
	struct http_chunked chunked;
	struct buf trailers;    /* owned; a trailer section that spans reads */
	bool out_chunked;       /* the destination gets chunks */
	bool done;              /* all of it lies at the destination */
	bool shut;              /* of a tunnel: and the destination was half-closed */
	bool (*may_pass)(const struct flow *, const struct http_field *trailer); /* NULL: those the rules let */
	struct filter *filter;  /* owned; NULL: as it came */
	int64_t tap;            /* lua/answers.lua is told each piece, under this number; 0: nobody wants to know */
	int64_t reader;         /* lua/reading.lua reads each piece before it goes on, under this number; 0: nobody does */
	/* the piece that is on its way */
	bool held;              /* the filter has not taken it whole, or has more output: run it again */
	bool end;               /* no piece comes after this one */
	struct slice piece;     /* borrowed from the source: what of it the destination has not got */
	struct slice tail;      /* borrowed from the source or `trailers`: the trailer section behind it */
	size_t used;            /* bytes of the source to consume once the piece is at the destination */
	uint64_t moved;         /* body bytes that went to the destination */
};

/* FLOW_WAIT: no bytes, or no room. FLOW_TURN: there are more, for the next turn. FLOW_BAD: the body is
 * malformed, or its filter refused it. */
enum flow_io { FLOW_DONE, FLOW_WAIT, FLOW_TURN, FLOW_SRC_GONE, FLOW_DST_GONE, FLOW_BAD };

static void
flow_free(struct flow *f)
{
	buf_free(&f->trailers);
	filter_free(f->filter);
}

/* Replaces the flow's filter; NULL: by none. True: it has one. */
static bool
flow_attach(struct flow *f, struct filter *filter)
{
	filter_free(f->filter);
	return (f->filter = filter) != NULL;
}

/* `f` is zeroed, or was used before; its filter stays. For an end in memory (`src` or `dst` NULL) the
 * caller then sets `from` or `into`. */
static void
flow_init(struct flow *f, struct peer *src, struct peer *dst, int mode, uint64_t length, bool out_chunked)
{
	buf_free(&f->trailers);
	*f = (struct flow){.src = src, .dst = dst, .mode = mode, .left = length, .out_chunked = out_chunked,
	    .trailers.max = HTTP_TRAILERS_MAX, .filter = f->filter, .tap = f->tap, .reader = f->reader};
	f->done = mode == BODY_NONE || (mode == BODY_LENGTH && length == 0 && !out_chunked);
}

static enum flow_io
flow_take_chunked(struct flow *f, struct slice in)
{
	enum chunk_event e = CHUNK_MORE;
	size_t had = f->trailers.n, used;

	if (had == 0)
		e = http_chunked_step(&f->chunked, in.p, in.n, &f->used, &f->piece);
	if (e == CHUNK_MORE && f->used == 0) {  /* trailers: gathered until the section is whole */
		if (in.n > f->trailers.max - had)
			in.n = f->trailers.max - had;
		if (in.n == 0 || !buf_addv(&f->trailers, in))
			return FLOW_BAD;
		e = http_chunked_step(&f->chunked, f->trailers.p, f->trailers.n, &used, &f->piece);
		f->used = e == CHUNK_MORE ? in.n : used - had;
	}
	if (e == CHUNK_TRAILERS || e == CHUNK_END) {
		f->end = true;
		f->tail = f->piece;
		f->piece.n = 0;
	}
	return e == CHUNK_BAD ? FLOW_BAD : FLOW_DONE;
}

/* Takes the next piece off the source. FLOW_DONE: f->piece is one, perhaps empty. */
static enum flow_io
flow_take(struct flow *f)
{
	struct slice in;
	enum io io;

	f->used = 0;
	f->piece = (struct slice){"", 0};
	if (f->src != NULL && f->from.n != 0) {
		f->piece = (struct slice){f->from.p, f->from.n < PEER_PIECE ? f->from.n : PEER_PIECE};
		f->from = (struct slice){f->from.p + f->piece.n, f->from.n - f->piece.n};
		f->end = false;
		return FLOW_DONE;
	}
	if ((f->end = f->mode == BODY_LENGTH && f->left == 0))
		return FLOW_DONE;
	if (f->src != NULL) {
		if ((io = peer_fill(f->src)) != IO_OK) {
			f->end = io == IO_EOF && f->mode == BODY_EOF;
			return io == IO_AGAIN ? FLOW_WAIT : f->end ? FLOW_DONE : FLOW_SRC_GONE;
		}
		in = peer_data(f->src);
	} else {
		in = (struct slice){f->from.p + (f->from.n - f->left), (size_t)f->left};
	}
	if (in.n > PEER_PIECE)
		in.n = PEER_PIECE;
	if (f->mode == BODY_CHUNKED)
		return flow_take_chunked(f, in);
	if (f->mode == BODY_LENGTH) {
		if (in.n > f->left)
			in.n = (size_t)f->left;
		f->left -= in.n;
		f->end = f->left == 0;
	}
	f->piece = in;
	f->used = in.n;
	return FLOW_DONE;
}

static bool
flow_put(struct flow *f, struct slice piece)
{
	char size[24];
	int n;

	if (piece.n == 0)
		return true;
	f->moved += piece.n;
	if (f->dst == NULL)
		return buf_addv(f->into, piece);
	if (!f->out_chunked)
		return peer_put(f->dst, piece.p, piece.n);
	n = snprintf(size, sizeof size, "%zx\r\n", piece.n);
	return peer_put(f->dst, size, (size_t)n) && peer_put(f->dst, piece.p, piece.n) &&
	    peer_put(f->dst, "\r\n", 2);
}

/* The last chunk, and those trailers that may pass (RFC 9110 6.5.1). */
static bool
flow_put_end(struct flow *f)
{
	struct http_field field[HTTP_TRAILER_FIELDS_MAX];
	size_t n = 0;
	bool ok;

	if (!f->out_chunked)
		return true;
	ok = peer_put(f->dst, "0\r\n", 3);
	if (f->tail.n != 0 && ((f->filter != NULL && !f->filter->class->keeps_trailers) ||
	    http_parse_fields(f->tail.p, f->tail.n, field, HTTP_TRAILER_FIELDS_MAX, &n) <= 0))
		n = 0;
	for (size_t i = 0; ok && i < n; i++)
		if (http_trailer_allowed(&field[i]) && (f->may_pass == NULL || f->may_pass(f, &field[i])))
			ok = peer_put(f->dst, field[i].name.p, field[i].name.n) &&
			    peer_put(f->dst, ": ", 2) &&
			    peer_put(f->dst, field[i].value.p, field[i].value.n) &&
			    peer_put(f->dst, "\r\n", 2);
	return ok && peer_put(f->dst, "\r\n", 2);
}

static enum flow_io
flow_move(struct flow *f)
{
	struct filter *filter = f->filter;
	uint64_t cost = 0;
	enum flow_io io;
	struct slice out;
	ssize_t took;

	while (!f->done) {
		if (cost >= FLOW_TURN_MAX)
			return FLOW_TURN;
		if (f->enough != 0 && f->into->n >= f->enough)
			return FLOW_WAIT;
		if (f->dst != NULL && !peer_room(f->dst, PEER_OUT_HIGH))
			return f->dst->failed ? FLOW_DST_GONE : FLOW_WAIT;
		if (!f->held) {
			if ((io = flow_take(f)) != FLOW_DONE)
				return io;
			cost += f->used + FLOW_PIECE_COST;
			if (f->tap != 0)
				lua_ask(ENTRY_HEARD, "", f->tap, f->piece, NULL);
			if (f->reader != 0 && f->dst != NULL) { /* one that goes to memory goes on later */
				if (!lua_ask(ENTRY_READING, f->end ? "end" : "", f->reader, f->piece, NULL))
					return FLOW_BAD;
				cost += FLOW_TURN_MAX;  /* it takes up to some ms */
			}
		}
		out = f->piece;
		if (filter != NULL) {
			out = SLICE("");
			if ((took = filter->class->run(filter, f->piece, f->end, &out)) < 0)
				return FLOW_BAD;
			cost += filter->cost;
			filter->cost = 0;
			f->piece = (struct slice){f->piece.p + took, f->piece.n - (size_t)took};
			f->held = f->piece.n != 0 || filter->more || (f->end && !filter->ended);
		}
		if (!flow_put(f, out))
			return FLOW_DST_GONE;
		if (f->held)            /* the filter must run again before the next piece */
			continue;
		if (f->end && !flow_put_end(f))
			return FLOW_DST_GONE;
		if (f->src != NULL && f->used != 0)
			peer_consume(f->src, f->used);
		f->done = f->end;
	}
	return FLOW_DONE;
}

/* Moves the bytes that there are, and flushes the destination: bytes of an earlier turn may wait there. */
static enum flow_io
flow_pump(struct flow *f)
{
	enum flow_io io;

	if (f->filter != NULL && f->filter->hold_until != 0 && clock_now() >= f->filter->hold_until) {
		f->filter->hurry = true;        /* the bytes that it holds back go on */
		if (!f->held)
			f->piece.n = f->used = 0;
		f->held = true;
	}
	io = flow_move(f);
	return f->dst != NULL && peer_flush(f->dst) == IO_ERR && io != FLOW_BAD ? FLOW_DST_GONE : io;
}

/* ---- task ------------------------------------------------------------------
 * Lua on the loop. One Lua state a process; its memory is counted; all that may raise runs protected.
 * Lua runs in tasks, a coroutine each, and lua_step alone resumes them, never one inside another. A
 * task that waits is yielded; the loop wakes it, or its deadline does. Policies run within an allowance
 * (section `lua`). */
#define LUA_POOL_MAX 64         /* idle coroutines kept; about 2 KiB each */
#define LUA_NAME_MAX 64         /* a policy's name with its NUL; so long in the heartbeat page */

static lua_State *lua_main;             /* owned; tasks are its threads */
static bool lua_worker;                 /* every task's memory is bounded, not only a policy's */
static char *lua_running_slot;          /* borrowed: LUA_NAME_MAX shared bytes, or NULL */

/* Runs f(L) with arg as its light userdata on the main state, protected. False: logged. */
static bool
lua_protect(lua_CFunction f, void *arg)
{
	bool ok;

	lua_pushcfunction(lua_main, f);
	lua_pushlightuserdata(lua_main, arg);
	ok = lua_pcall(lua_main, 1, 0, 0) == LUA_OK;
	if (!ok) {
		log_line("ev=lua_error msg=\"%s\"", l_message(lua_main));
		lua_pop(lua_main, 1);
	}
	return ok;
}

/* -- tasks: TASK_NEW -> TASK_RUNNING <-> TASK_WAITING, then TASK_IDLE in the pool. The owner's pointer
 * is dead once `done` or task_abandon was called. */
enum task_state { TASK_IDLE, TASK_NEW, TASK_RUNNING, TASK_WAITING };
/* Runs inside the task, where Lua may raise: pushes the function's arguments, and returns their number. */
typedef int task_push(lua_State *co, void *arg);
/* Runs outside any protected call, so it allocates nothing in Lua. `ok`: the function's results lie on
 * `co` from index 1; else the error message is on top. */
typedef void task_done(struct task *t, bool ok, lua_State *co);

struct task {
	struct task *next;      /* in the pool */
	lua_State *co;          /* owned through `ref` */
	int ref;                /* registry: the thread */
	int fn_ref;             /* registry; the caller's */
	enum task_state state;
	bool woken;             /* a wake came while it ran */
	bool abandoned;         /* its owner died while it ran */
	bool waits;             /* it yielded through task_yield: something will wake it */
	bool busy;              /* a helper thread reads what the task borrows: its owner must live on */
	unsigned heavy;         /* so often a policy of its had that done (l_heavy) */
	uint32_t agent;         /* whose request it decides (struct job's owner); 0: ours */
	size_t body;            /* bytes of the body that it has as a string, or had */
	task_push *push;
	void *arg;              /* borrowed until push has run */
	void *owner;            /* borrowed; for done */
	task_done *done;        /* NULL: nobody asks, and a failure is logged */
	struct secret_scope scope; /* handles of secrets that it made */
	struct timer deadline;
	struct defer wake;
	char policy[LUA_NAME_MAX]; /* the policy whose call yielded (sandbox.wait), or "" */
};

static struct pool task_pool;
static struct task *task_running;       /* the one whose turn it is; NULL: no Lua runs */

/* The task of a coroutine; NULL on the main state. */
static struct task *
task_of(lua_State *L)
{
	return *(struct task **)lua_getextraspace(L);
}

static int
l_task_thread(lua_State *L)
{
	struct task *t = lua_touserdata(L, 1);
	lua_State *co = lua_newthread(L);

	t->ref = luaL_ref(L, LUA_REGISTRYINDEX);
	t->co = co;
	*(struct task **)lua_getextraspace(co) = t;
	return 0;
}

static void
task_free(struct task *t)
{
	if (t->co != NULL) {
		*(struct task **)lua_getextraspace(t->co) = NULL;
		luaL_unref(lua_main, LUA_REGISTRYINDEX, t->ref);
	}
	free(t);
}

/* fn_ref stays the caller's; arg must live until the first step. NULL: no memory. */
static struct task *
task_new(int fn_ref, task_push *push, void *arg, void *owner, task_done *done)
{
	struct task *t = pool_get(&task_pool);

	if (t == NULL) {
		if ((t = calloc(1, sizeof *t)) == NULL)
			return NULL;
		if (!lua_protect(l_task_thread, t)) {
			task_free(t);
			return NULL;
		}
	}
	*t = (struct task){.co = t->co, .ref = t->ref, .state = TASK_NEW, .fn_ref = fn_ref, .push = push, .arg = arg,
	    .owner = owner, .done = done};
	return t;
}

static int
l_task_reset(lua_State *L)
{
	struct task *t = lua_touserdata(L, 1);

	lua_resetthread(t->co);         /* runs what is to be closed */
	lua_settop(t->co, 0);
	return 0;
}

/* The text that a binding builds, one at a time. A binding that raises leaves the text there: the next
 * binding or the task's end frees it. */
static struct buf lua_text;

/* Ends a task and puts it into the pool. Handles of secrets are emptied first, because the coroutine's
 * variables may outlive this call until a collection. */
static void
task_recycle(struct task *t)
{
	timer_stop(&t->deadline);
	loop_undefer(&t->wake);
	secret_scope_close(&t->scope);
	buf_free(&lua_text);
	if (lua_status(t->co) == LUA_OK)
		lua_settop(t->co, 0);
	else if (!lua_protect(l_task_reset, t)) {
		task_free(t);
		return;
	}
	t->state = TASK_IDLE;
	if (!pool_put(&task_pool, t, LUA_POOL_MAX))
		task_free(t);
}

static int
l_task_end_k(lua_State *L, int status, lua_KContext ctx)
{
	return lua_gettop(L);
}

/* The function at the bottom of a task's stack: calls the task's Lua function. */
static int
l_task_main(lua_State *L)
{
	struct task *t = lua_touserdata(L, 1);
	int n;

	lua_settop(L, 0);
	lua_rawgeti(L, LUA_REGISTRYINDEX, t->fn_ref);
	n = t->push != NULL ? t->push(L, t->arg) : 0;
	lua_callk(L, n, LUA_MULTRET, 0, l_task_end_k);
	return lua_gettop(L);
}

static int
l_task_traceback(lua_State *L)
{
	struct task *t = lua_touserdata(L, 1);
	const char *msg = lua_status(t->co) == LUA_YIELD ? "yielded, and nothing will wake it"
	    : lua_type(t->co, -1) == LUA_TSTRING ? lua_tostring(t->co, -1)
	    : "error object is not a string";

	luaL_traceback(L, t->co, msg, 0);
	luaL_checkstack(t->co, 1, NULL);
	lua_xmove(L, t->co, 1);
	return 0;
}

static void task_wake(struct task *t);  /* defers lua_step, and lua_step calls it after an early wake */

/* The only lua_resume. */
static void
lua_step(struct defer *d)
{
	struct task *t = OWNER(d, struct task, wake);
	int rc, nres, nargs = t->state == TASK_NEW;

	assert(task_running == NULL);
	timer_stop(&t->deadline);
	if (t->state == TASK_NEW) {
		lua_pushcfunction(t->co, l_task_main);
		lua_pushlightuserdata(t->co, t);
	}
	t->state = TASK_RUNNING;
	t->woken = t->waits = false;
	task_running = t;
	secret_scope_now = &t->scope;
	lua_allow(t);
	store_read_reset();     /* this step's reads see the store as it is now */
	rc = lua_resume(t->co, lua_main, nargs, &nres);
	lua_allow_end();
	secret_scope_now = NULL;
	task_running = NULL;
	store_read_reset();
	if (rc == LUA_YIELD && t->waits && !t->abandoned) {
		t->state = TASK_WAITING;
		lua_pop(t->co, nres);
		if (t->woken)
			task_wake(t);
		return;
	}
	if (rc != LUA_OK && !t->abandoned)
		lua_protect(l_task_traceback, t);
	if (t->done != NULL && !t->abandoned)
		t->done(t, rc == LUA_OK, t->co);
	else if (rc != LUA_OK && !t->abandoned)
		log_line("ev=task_failed msg=\"%.300s\"", l_message(t->co));
	task_recycle(t);
}

/* Runs the first step: now, or soon when Lua runs already. */
static void
task_run(struct task *t)
{
	assert(t->state == TASK_NEW);
	if (task_running == NULL)
		lua_step(&t->wake);
	else
		loop_defer(&t->wake, lua_step);
}

/* Resumes the task in a deferred call, never inside this one. A wake that comes while the task runs makes
 * its next wait end at once. */
static void
task_wake(struct task *t)
{
	if (t->state == TASK_RUNNING)
		t->woken = true;
	else if (t->state == TASK_WAITING)
		loop_defer(&t->wake, lua_step);
}

static void
task_timeout(struct timer *timer)
{
	task_wake(OWNER(timer, struct task, deadline));
}

/* The owner ends before the task: `done` is not called, and the coroutine never resumed. */
static void
task_abandon(struct task *t)
{
	if (t->state == TASK_RUNNING)
		t->abandoned = true;
	else if (t->state != TASK_IDLE)
		task_recycle(t);
}

/* A binding waits by returning task_yield(…): for task_wake or the deadline (monotonic ms; INT64_MAX: none).
 * Then k runs, looks at what it waited for and may wait again. */
static int
task_yield(lua_State *L, int64_t deadline, lua_KContext ctx, lua_KFunction k)
{
	struct task *t = task_of(L);

	if (t == NULL || !lua_isyieldable(L))
		return luaL_error(L, "cannot wait here");
	if (deadline != INT64_MAX)
		timer_set(&t->deadline, deadline, task_timeout);
	t->waits = true;
	return lua_yieldk(L, 0, ctx, k);
}

/* One operation that a task waits for inside a binding. The operation's own struct begins with it, and
 * l_wait_new makes the handle that holds both. */
struct wait {
	struct task *task;      /* borrowed; NULL: none waits */
	bool done;
	void (*drop)(struct wait *);    /* the binding returned, or its task was abandoned */
};

static void
wait_end(struct wait *w)
{
	w->done = true;
	if (w->task != NULL)
		task_wake(w->task);
}

/* ---- req -------------------------------------------------------------------
 * One request of a client, from its head to its record: where it is going and for whom, what was
 * decided, the fields as they go out. A req is owned by its conn, and lives until its record is
 * written. Lua decides in a task and leaves an action in the req; from then on only C touches it.
 * Lua's handles are emptied by req_free: kept too long, they say "closed". The fields are one list:
 * those that came, each with its mark, and behind them those that a policy set, which own their bytes. */
#define REQ_POOL_MAX 64         /* idle ones kept, with their buffers: 1 MB */
#define REQ_ATTACHED_MAX (PEER_HEAD_MAX - HTTP_HEAD_MAX) /* by which a head may grow here */
#define REQ_NAME_MAX 65         /* agent, bundle, credential names (64 bytes) with their NUL */

#define REQ_BODY_STEP (4 * PEER_PIECE) /* counted of a body whose length nobody said, before a byte of it came */

/* -- a request and its connection. Functions of req read the conn, so both structs stand here. */
enum conn_state {
	CONN_HEAD,      /* between requests, or a head is arriving */
	CONN_DECIDE,    /* a task decides; req:read_body reads meanwhile */
	CONN_DIAL,      /* the upstream is not open yet */
	CONN_RELAY,     /* bytes go both ways */
	CONN_ANSWER,    /* our own answer goes out */
	CONN_SNIFF,     /* a tunnel is open: its first byte decides */
	CONN_HANDSHAKE, /* TLS with the client */
	CONN_BLIND,     /* bytes go both ways unread: a tunnel entry, or a WebSocket after its 101 */
	CONN_H2,        /* HTTP/2: each of its streams is a conn, in one of the states above */
	CONN_LINGER,    /* answered for the last time */
	CONN_CLOSED,
};

/* REQ_DOOR: came in at a gateway, and stays so where the door hands it on to the gateway's URL. */
enum req_form { REQ_CONNECT, REQ_ABSOLUTE, REQ_ORIGIN, REQ_TUNNEL, REQ_DOOR };
/* Of a tunnel whose bytes pass unread: what lua/hello.lua found in the client's ClientHello. HELLO_ANY: the
 * bytes are not looked at (any more). */
enum hello { HELLO_ANY, HELLO_MORE, HELLO_PASS, HELLO_REFUSE };
enum req_action { REQ_UNDECIDED, REQ_REPLY, REQ_FORWARD, REQ_INTERCEPT, REQ_BLIND };

struct req {
	struct req *next_free;  /* first: in the pool */
	struct conn *conn;      /* borrowed */
	void *handle;           /* the Lua userdata that points here; emptied by req_free */
	struct task *task;      /* NULL: none runs */
	bool task_done, task_ok;
	char id[17];

	struct http_head head;  /* slices into bytes; behind its fields, those that policies add */
	enum req_form form;
	struct kept *kept;      /* owned reference: what goes out is as in an earlier request */
	struct kept *asked;     /* owned reference: its rules are asked about this one */
	bool looked;            /* the type's apply read something of this request, so no decision is kept */
	bool secure;            /* scheme https */
	bool websocket;
	bool last_hop;          /* OPTIONS with Max-Forwards: 0 */
	char host[256];
	int port;
	struct slice path, query; /* as they came; query without "?", .p NULL: none */
	char token[REQ_WHO_MAX]; /* hex SHA-256 of the proxy token presented; none: by which door it came (door_name) */
	struct secret *new_path, *new_query; /* owned; what policies made of them, may hold secrets */
	struct buf stripped_query; /* owned; what strip took out, form-encoded */
	struct buf stripped_names; /* owned; headers that no trailer may be, a line each */
	char taken[256];        /* for the record: names of fields taken off that were the agent's own, no placeholder */
	struct subst *subst;    /* owned; the credential's rows, once they ran; NULL: it has none */
	/* owned, or kept's; what was attached, to be taken out of the answer's head */
	struct scrub *back;
	struct seal *seal;      /* owned; what of the answer is sealed; NULL: nothing */
	int64_t unsealed;       /* a sealed text was opened, and its secret put in: of which epochs (lua/pipeline.lua); 0: none */
	struct mcp *mcp;        /* owned; what the client may see of an MCP server's answer; NULL: it is none */

	/* the body, when a policy reads it whole */
	bool body_reading, body_read;
	const char *body_error; /* static; NULL: none so far */
	struct buf body;        /* owned; counted in req_bodies: body.max */
	size_t body_most;       /* bytes: what body.max may become while it is read */
	size_t *body_share;     /* borrowed: where it is counted as its agent's; NULL: nowhere */
	bool body_set;          /* apply made all of it: it goes out whether one came or not */
	bool body_secret;       /* it holds a secret */

	/* the decision */
	enum req_action action;
	int status;             /* of our own answer, or the upstream's */
	char code[32];          /* X-Sallyport-Error; empty: no error */
	struct buf answer;      /* owned; body of our own answer */
	size_t answer_counted;  /* bytes of it that count as its agent's */
	bool answer_json;       /* it is an error of ours; else `fields` say what it is */
	struct buf target;      /* owned; a gateway's path and query, which stand in place of those that came */
	struct buf fields;      /* owned; of any answer that the door gives or relays: "\r\nName: value" each */
	int retry_after;        /* seconds; 0: not said */
	bool close_after;
	char dial_host[256];    /* from here to `sent`: what a kept decision says, copied as it is */
	uint16_t dial_port;
	struct tls_ident *ident; /* owned reference, or NULL: the credential's certificate and roots */
	struct cidr allow[NET_CIDRS_MAX];
	size_t nallow;
	bool via;               /* goes through the upstream proxy */
	bool watch;             /* tell Lua of 401 and 403 */
	int scrub;              /* enum scrub_mode: which bodies of answers are searched for what was attached */
	bool refused;           /* the upstream answered 401 to the credential that we attached */
	int hello;              /* enum hello */
	int http;               /* spoken with the upstream: 2, 1, or 0: 2 if the client speaks it, and the server takes it */
	int64_t answer_ms, idle_ms; /* how long the upstream may take to answer; the silence on a stream */
	uint64_t config;        /* generation that decided */
	int64_t judged;         /* monotonic ms: when */
	char agent[REQ_NAME_MAX], bundle[REQ_NAME_MAX], credential[REQ_NAME_MAX];
	char reason[272];       /* "domain " and a host */
	char behind[ADDR_TEXT_MAX];     /* the client, where a proxy of the door's says who that is */
	bool allowed;
	bool sent;              /* on its way to the upstream */
	struct agent *line;     /* of the door: the connection among whose requests or streams this one counts; NULL: none */
	struct agent *counted;  /* the agent among whose requests in progress this one counts; NULL: none */
	bool held;              /* waits in that agent's queue until it may be sent */
	TAILQ_ENTRY(req) held_link;
	bool too_many;

	/* the upstream */
	struct upstream *up;    /* owned while set */
	bool answer_begun;
	bool answer_held;       /* its body is gathered in `answer`, to be searched before the head goes on */
	unsigned answer_io;     /* 1 + how that ended; 0: it goes on */
	bool up_h2;             /* HTTP/2 was spoken with the upstream */
	bool echoes;            /* the answer's head has one of `back` */
	int64_t told;           /* lua/answers.lua is told of the end, under this number; 0: it is not */
	bool judges;            /* and a rule is asked about the answer's head */
	struct scrub_tally tally; /* secrets that were taken out of the answer */
	bool retried;           /* the second try, on no pooled connection */
	bool up_seen;           /* a byte of an answer came, be it a 1xx */
	size_t up_scanned;
	struct flow up_flow, down_flow;
	bool up_keep;           /* the upstream will keep its connection */
	bool expect_sent;       /* our own 100 Continue went out */

	int64_t t_start, t_first; /* monotonic ms */
	int up_status;          /* of the upstream's answer, as soon as its head is there: ours may take its place, but not what it cost */
	uint64_t bytes_up, bytes_down;

	/* Kept, emptied and wiped, for the next request that gets this struct. */
	struct buf bytes;       /* owned; the head as it came */
	struct buf out_head;    /* owned; composed before the dial, gone when it is sent */
	struct buf up_bytes;    /* owned; head of the answer as it comes */
};

/* What the requests and connections of one agent hold (section `agent`). */
struct agent {
	struct agent *next;     /* in its slot */
	unsigned conns, requests, share; /* `requests` may be as many as `share` */
	TAILQ_HEAD(, req) held; /* those that wait for their turn, in the order they came */
	size_t held_bytes;      /* of their heads */
	struct reqlog_share log; /* its records that wait to be written */
	size_t bodies;          /* bytes of bodies held for its requests */
	char name[REQ_NAME_MAX];
};

struct conn {
	struct defer defer;     /* first, for defer_free: another turn, or the end */
	struct peer peer;
	LIST_ENTRY(conn) link;  /* among all of the worker */
	struct timer timer;
	int64_t deadline;       /* monotonic ms; the timer may fire earlier and look again */
	int unsent;             /* what the kernel held when a deadline last passed */
	enum conn_state state;
	bool advancing, again;
	bool tunnel;            /* CONNECT was answered: host and port are fixed */
	bool is_git;            /* by its User-Agent: HTTP/2 is not offered */
	bool secure;            /* and the client speaks TLS inside */
	bool last;              /* no request after this one */
	bool closing;           /* conn_close found the request busy: it is tried again */
	uint8_t socks;          /* of SOCKS5, or of DNS over TCP: the message that is awaited; 0: HTTP */
	bool known;             /* what ENTRY_KNOWS found: its token or door names an agent */
	bool counted_unknown;   /* in conn_unknown: no token has named its agent yet */
	uint64_t id;
	uint64_t lingered;
	size_t scanned;         /* of a head that is arriving */
	struct req *req;        /* owned; NULL between requests */
	struct agent *agent;    /* whose connection this is; NULL: not known yet */
	const struct listener *at; /* static; where it was accepted */
	struct endpoint client; /* port 0: not known, or a Unix socket's */
	uid_t uid;              /* of a Unix socket's client */
	struct addr dialled;    /* of a captured connection: by the client */
	char host[256];         /* of the tunnel, canonical */
	int port;
	char token[REQ_WHO_MAX]; /* of the CONNECT */
};

static LIST_HEAD(, conn) conn_list = LIST_HEAD_INITIALIZER(conn_list); /* all of them, newest first */
static uint64_t conn_ids;
static struct pool req_pool;

/* -- making and freeing: a req is made when the first byte of a head arrives, and freed when its log record
 * is written. Freed ones are kept in a pool with their buffers. */
static struct req *
req_new(struct conn *c)
{
	static uint64_t name;
	struct req *r = pool_get(&req_pool);
	uint8_t id[8];
	uint64_t z;

	if (r == NULL) {
		if ((r = malloc(sizeof *r)) == NULL)
			return NULL;
		buf_init(&r->bytes, HTTP_HEAD_MAX);
		buf_init(&r->out_head, PEER_HEAD_MAX);
		buf_init(&r->up_bytes, HTTP_HEAD_MAX);
	}
	/* All but head.field, of which http_parse_request writes the first head.nfields. */
	memset(r, 0, offsetof(struct req, head.field));
	memset(&r->form, 0, offsetof(struct req, bytes) - offsetof(struct req, form));
	r->conn = c;
	buf_init(&r->body, 0);
	buf_init(&r->answer, 256 * 1024);
	buf_init(&r->fields, PEER_OUT_HEAD);
	buf_init(&r->target, PEER_OUT_HEAD);
	buf_init(&r->stripped_query, HTTP_HEAD_MAX);
	buf_init(&r->stripped_names, 8192);
	/* For logs and error bodies: distinct, not secret. Steps through all 64-bit numbers from a random
	 * start, mixed (splitmix64) so that neighbours look apart. */
	if (name == 0)
		rand_bytes(&name, sizeof name);
	z = name += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	store_be64(id, z ^ z >> 31);
	hex_encode(r->id, id, sizeof id);
	r->t_start = clock_now();
	return r;
}

/* Counts n bytes of a held answer, in the place of those counted so far. False: there is no room. */
static bool
req_count_answer(struct req *r, size_t n)
{
	bool ok = bodies_count(r->counted != NULL ? &r->counted->bodies : NULL, r->answer_counted, n);

	if (ok)
		r->answer_counted = n;
	return ok;
}

/* Replaces the body by `out`, and counts it in the place of the first. A body that holds a secret does not
 * lie in the arena either, which a few large bodies would fill for all agents. False: no room, and `out`
 * stays the caller's. */
static bool
req_take_body(struct req *r, struct buf *out, bool is_secret)
{
	if (!bodies_count(r->body_share, r->body.max, out->cap))
		return false;
	buf_free(&r->body);
	r->body = *out;
	r->body.max = out->cap;
	r->body_secret |= is_secret;
	r->body_set = false;
	*out = (struct buf){0};
	return true;
}

static void
req_free(struct req *r)
{
	req_stop(r);
	for (size_t i = 0; i < r->head.nfields; i++)
		secret_unref(r->head.field[i].own);
	if (r->kept == NULL)
		scrub_free(r->back);
	seal_free(r->seal);
	mcp_free(r->mcp);
	kept_unref(r->kept);
	kept_unref(r->asked);
	upstream_drop(&r->up);
	flow_free(&r->up_flow);         /* a filter's bytes are its agent's, who goes with req_unclaim */
	flow_free(&r->down_flow);
	if (r->up_flow.reader != 0)
		lua_ask(ENTRY_READING, "gone", r->up_flow.reader, SLICE(""), NULL);
	secret_drop(&r->new_path);
	secret_drop(&r->new_query);
	subst_free(r->subst);
	tls_ident_unref(r->ident);
	bodies_count(r->body_share, r->body.max, 0);
	buf_free(&r->body);
	req_count_answer(r, 0);
	req_unclaim(r);
	buf_free(&r->answer);
	buf_free(&r->fields);
	buf_free(&r->target);
	buf_free(&r->stripped_query);
	buf_free(&r->stripped_names);
	buf_recycle(&r->bytes, FLOW_BUF_KEEP);
	buf_recycle(&r->out_head, FLOW_BUF_KEEP);
	buf_recycle(&r->up_bytes, FLOW_BUF_KEEP);
	if (!pool_put(&req_pool, r, REQ_POOL_MAX)) {
		buf_free(&r->bytes);
		buf_free(&r->out_head);
		buf_free(&r->up_bytes);
		free(r);
	}
}

/* -- our own answers */

/* The action becomes an error answer, in DESIGN's form: {"error","message","hint","request"}. */
static void
req_fail(struct req *r, int status, const char *code, struct slice message, struct slice hint)
{
	r->action = REQ_REPLY;
	r->status = status;
	r->allowed = r->allowed && status >= 500;       /* what fails later on was allowed all the same */
	text_copy(r->code, sizeof r->code, code);
	buf_clear(&r->answer);
	r->answer_json = true;
	if (status == 407)
		return;                 /* an empty body: git and Java read on the same connection */
	json_put_member(&r->answer, SLICE("{\"error\":"), slice_of(code));
	json_put_member(&r->answer, SLICE(",\"message\":"), message);
	json_put_member(&r->answer, SLICE(",\"hint\":"), hint);
	if (strcmp(code, "host_not_allowed") == 0) {    /* how an agent asks for it (lua/proposals.lua) */
		json_put_member(&r->answer, SLICE(",\"proposal_hint\":{\"host\":"), slice_of(r->host));
		buf_adds(&r->answer, ",\"endpoint\":\"POST /v1/proposals\",\"supported_auth_types\":"
		    "[\"bearer\",\"basic\",\"api-key\",\"custom\",\"passthrough\"]}");
	}
	buf_addf(&r->answer, ",\"request\":\"%s\"}\n", r->id);
	if (r->conn->peer.stream != NULL)
		grpc_fail(r, message, hint);
}

static void
req_failf(struct req *r, int status, const char *code, const char *message)
{
	req_fail(r, status, code, slice_of(message), SLICE(""));
}

/* A host as it stands in a URL: IPv6 in brackets. */
static const char *
host_text(const char *host)
{
	static char text[260];  /* dead at the next call */

	if (strchr(host, ':') == NULL)
		return host;
	snprintf(text, sizeof text, "[%s]", host);
	return text;
}

/* Says why a head was refused: "the request has two Content-Length fields (line 5)". */
static void
head_tell(const struct http_head *h, const char *begin, char *out, size_t cap)
{
	char line[32] = "";

	if (h->line != 0)
		snprintf(line, sizeof line, " (line %zu)", h->line);
	snprintf(out, cap, "%s %s%s", begin, h->why, line);
}

/* -- parsing: from the head to a canonical host, path and token. False: req_fail was called. */
static bool
req_bad(struct req *r, int status, const char *code, const char *message)
{
	req_failf(r, status, code, message);
	r->close_after = true;
	return false;
}

static bool
req_canonical(struct req *r, struct slice host)
{
	bool ip;
	const char *why = http_canonical_host(host, r->host, &ip);

	if (why == NULL)
		return true;
	r->host[0] = '\0';
	return req_bad(r, 400, "bad_request", why);
}

static bool
host_is_ours(const char *host, int port)
{
	struct endpoint e = {.port = (uint16_t)port};

	return addr_parse(slice_of(strcmp(host, "localhost") == 0 ? "127.0.0.1" : host), &e.addr) &&
	    net_is_own_listener(&e);
}

/* The Host field must name the host and port of the target (or of the tunnel). Some clients send the
 * proxy's own host with CONNECT, which is let pass. */
static bool
req_check_host(struct req *r, int default_port)
{
	const struct http_authority *h = &r->head.host;
	char canonical[256];
	int port = h->port < 0 ? default_port : h->port;
	bool ip;

	if (h->host.p == NULL)
		return true;            /* HTTP/1.0: the parser refuses this for 1.1 */
	if (http_canonical_host(h->host, canonical, &ip) != NULL)
		return req_bad(r, 400, "bad_request", "Host is malformed");
	if ((strcmp(canonical, r->host) != 0 || port != r->port) &&
	    !(r->form == REQ_CONNECT && host_is_ours(canonical, port)))
		return req_bad(r, 421, "misdirected", "Host is not the host this request is for");
	return true;
}

/* Which host the request is for, by the form of its target (RFC 9112 3.2) and its tunnel. */
static bool
req_parse_target(struct req *r)
{
	const struct conn *c = r->conn;
	/* Origin-form on the proxy port is for our own endpoints: Host must be one of our listeners. */
	const struct http_authority *to = r->head.form == HTTP_AUTHORITY || r->head.form == HTTP_ABSOLUTE ?
	    &r->head.to : &r->head.host;
	int default_port;

	r->form = c->at->kind != LISTEN_PROXY || c->at->control ? REQ_DOOR : c->tunnel ? REQ_TUNNEL : r->head.form == HTTP_AUTHORITY ? REQ_CONNECT :
	    r->head.form == HTTP_ABSOLUTE ? REQ_ABSOLUTE : REQ_ORIGIN;
	if (r->form == REQ_DOOR && r->head.form != HTTP_ORIGIN)
		return req_bad(r, 421, "misdirected", "this is no proxy: requests come in origin form");
	/* Also absolute https (old axios): the TLS is then ours. */
	r->secure = r->form == REQ_DOOR ? c->at->tls : c->tunnel ? c->secure : r->form == REQ_CONNECT || (r->form == REQ_ABSOLUTE && r->head.tls);
	default_port = r->secure ? 443 : 80;
	r->port = c->tunnel ? c->port : to->port < 0 ? default_port : to->port;
	if (r->form == REQ_CONNECT)
		r->path = SLICE("");
	if ((c->tunnel || c->peer.stream != NULL) && r->head.form == HTTP_AUTHORITY)
		return req_bad(r, 400, "bad_request", "CONNECT inside a tunnel");
	if (r->form >= REQ_ORIGIN && to->host.p == NULL && !c->tunnel)
		return req_bad(r, 400, "bad_request", "Host is missing");
	if (c->at->captures && c->at->over == NULL && c->tunnel && !c->secure) { /* each request says anew which host it is for */
		r->host[addr_format(&c->dialled, r->host)] = '\0';
		if (r->head.host.host.p != NULL && !req_canonical(r, r->head.host.host))
			return false;
		memcpy(r->conn->host, r->host, sizeof r->host);
	}
	if ((!c->tunnel || r->head.form == HTTP_ABSOLUTE) && !req_canonical(r, to->host))
		return false;
	if (r->form == REQ_ORIGIN && !host_is_ours(r->host, r->port) &&
	    strcmp(r->host, c->at->host) != 0)
		return req_bad(r, 421, "misdirected", "this is a proxy: send absolute-form requests or CONNECT");
	if (c->tunnel && r->head.form == HTTP_ABSOLUTE && (r->head.tls != c->secure ||
	    strcmp(c->host, r->host) != 0 || (to->port < 0 ? default_port : to->port) != c->port))
		return req_bad(r, 421, "misdirected", "the target is not the tunnel's host");
	if (c->tunnel)
		memcpy(r->host, c->host, sizeof r->host);
	/* Beside absolute-form Host is ignored (RFC 9112 3.2.2). */
	return r->form == REQ_ABSOLUTE || r->form == REQ_ORIGIN || r->form == REQ_DOOR ||
	    req_check_host(r, c->tunnel ? default_port : r->port);
}

#define REQ_BASIC_MAX 512       /* far more than a token and what may stand beside it */

/* Writes the hash of a token, which begins with sp_agt_, so it may be the user or the password. Where
 * neither is one, `out` stays as it is. */
static void
token_hash(struct slice user, struct slice password, char out[REQ_WHO_MAX])
{
	struct slice token = user.n > 7 && memcmp(user.p, "sp_agt_", 7) == 0 ? user : password;

	if (token.n > 7 && memcmp(token.p, "sp_agt_", 7) == 0)
		tls_sha256_hex(token, out);
}

/* Finds the agent's proxy token in Basic or a Bearer, and keeps its hash. False: there are two, and which
 * of them counts is not defined. */
static bool
req_read_token(struct req *r)
{
	int i = http_find(&r->head, SLICE("proxy-authorization"), 0);
	struct slice value, user = {NULL, 0}, password = user;
	struct buf plain;

	if (i >= 0 && http_find(&r->head, SLICE("proxy-authorization"), (size_t)i + 1) >= 0)
		return false;
	if (i < 0 && r->form == REQ_ORIGIN)
		i = http_find(&r->head, SLICE("authorization"), 0);
	if (i < 0)
		return true;
	value = r->head.field[i].value;
	if (http_basic(value, &plain) && plain.n <= REQ_BASIC_MAX) {
		password = buf_slice(&plain);
		user = slice_cut(&password, ':');
	} else if (slice_begins_nocase(value, SLICE("bearer "))) {
		password = (struct slice){value.p + 7, value.n - 7};
	}
	token_hash(user, password, r->token);
	buf_free(&plain);
	return true;
}

/* RFC 9110 7.6.2: Max-Forwards less one, written over the value that came. At zero conn_act answers. */
static bool
req_count_hop(struct req *r)
{
	int i = http_find(&r->head, SLICE("max-forwards"), 0);
	struct slice *v;
	uint64_t hops;
	char less[24];

	if (i < 0 || !slice_eq(r->head.method, SLICE("OPTIONS")))
		return true;
	v = &r->head.field[i].value;
	if (!slice_number(*v, INT64_MAX, &hops) || http_find(&r->head, SLICE("max-forwards"), (size_t)i + 1) >= 0)
		return req_bad(r, 400, "bad_request", "the request has a malformed Max-Forwards field");
	r->last_hop = hops == 0;
	v->n = (size_t)snprintf(less, sizeof less, "%llu", (unsigned long long)hops - !r->last_hop);
	memcpy(r->bytes.p + (v->p - r->bytes.p), less, v->n);
	return true;
}

static bool
req_parse(struct req *r)
{
	ssize_t n = http_parse_request(r->bytes.p, r->bytes.n, &r->head);
	const struct conn *c = r->conn;
	char why[128];

	if (n <= 0) {
		r->head.nfields = 0;
		r->head.method = r->head.target = (struct slice){NULL, 0};
		r->head.keep_alive = false;
		r->head.body = BODY_NONE;
		memcpy(r->host, c->host, sizeof r->host);
		r->port = c->port;
		head_tell(&r->head, "the request has", why, sizeof why);
		return req_bad(r, (int)-n, n == -431 ? "head_too_large" : "bad_request", why);
	}
	r->path = r->head.path;
	r->query = r->head.query;
	r->websocket = r->head.websocket && r->head.minor == 1 && r->head.body == BODY_NONE &&
	    slice_eq(r->head.method, SLICE("GET")) &&
	    http_find(&r->head, SLICE("sec-websocket-key"), 0) >= 0; /* RFC 6455 4.1 */
	for (size_t i = 0; i < r->head.nfields; i++)
		if (r->head.field[i].rule & (HDR_HOP | HDR_FRAMING | HDR_PROXY | HDR_OURS))
			r->head.field[i].mark = FIELD_DROPPED;
	if (!req_parse_target(r))
		return false;
	/* Who asks: the tunnel's agent; a bound listener's; a token's; without one, whom the door names. */
	if (r->form == REQ_TUNNEL || c->socks != 0 || c->at->captures)
		memcpy(r->token, c->token, sizeof r->token);
	else if (r->form != REQ_DOOR && (c->at->agent[0] != '\0' || (req_read_token(r) && r->token[0] == '\0')))
		door_name(c, r->token);
	/* kubectl before 1.31, for exec, attach, cp and port-forward. It shows the message alone. */
	if (r->head.upgrade && slice_begins_nocase(http_value(&r->head, SLICE("upgrade")), SLICE("SPDY/")))
		return req_bad(r, 400, "bad_request", "an upgrade to SPDY is not passed on, only one to websocket: "
		    "kubectl 1.31 asks for that, 1.29 with KUBECTL_REMOTE_COMMAND_WEBSOCKETS=true, "
		    "1.30 also with KUBECTL_PORT_FORWARD_WEBSOCKETS=true");
	/* the word of our rules for an upgrade; no method has that name */
	if (slice_eq(r->head.method, SLICE("WEBSOCKET")))
		return req_bad(r, 400, "bad_request", "there is no such method");
	if (slice_eq(r->head.method, SLICE("TRACE")))
		return req_bad(r, 405, "trace", "TRACE would send a credential back");
	return req_count_hop(r);
}

/* -- names: case is ignored, and "_" equals "-", for CGI makes them equal */
static char
name_fold(char ch)
{
	return ch == '_' ? '-' : ascii_lower(ch);
}

static bool
name_same(struct slice a, struct slice b)
{
	if (a.n != b.n)
		return false;
	for (size_t i = 0; i < a.n; i++)
		if (name_fold(a.p[i]) != name_fold(b.p[i]))
			return false;
	return true;
}

/* -- the request as it goes out */
static bool
put_field(struct buf *b, struct slice name, struct slice value)
{
	const struct slice line[] = {name, SLICE(": "), value, SLICE("\r\n")};

	/* nearly always it stands in its head as it is written */
	if (value.p == name.p + name.n + 2 && memcmp(name.p + name.n, ": ", 2) == 0 &&
	    memcmp(value.p + value.n, "\r\n", 2) == 0)
		return buf_add(b, name.p, name.n + value.n + 4);
	return buf_join(b, line, 4);
}

static bool
put_length(struct buf *b, uint64_t n)
{
	return buf_adds(b, "Content-Length: ") && buf_addu(b, n) && buf_add(b, "\r\n", 2);
}

static struct slice
req_path_now(const struct req *r)
{
	return r->new_path != NULL ? secret_slice(r->new_path) : r->path;
}

static struct slice
req_query_now(const struct req *r)
{
	return r->new_query != NULL ? secret_slice(r->new_query) : r->query.p != NULL ? r->query : SLICE("");
}

static bool
req_put_target(const struct req *r, struct buf *b)
{
	buf_addv(b, req_path_now(r));
	if (r->new_query != NULL ? r->new_query->n != 0 : r->query.p != NULL) {
		buf_add(b, "?", 1);
		buf_addv(b, req_query_now(r));
	}
	return buf_ok(b);
}

/* As Host has it: IPv6 in brackets, and no port where the scheme has that one. */
static void
req_put_authority(const struct req *r, struct buf *b)
{
	buf_adds(b, host_text(r->host));
	if (r->port != (r->secure ? 443 : 80)) {
		buf_add(b, ":", 1);
		buf_addu(b, (uint64_t)r->port);
	}
}

static bool
req_wants_length(const struct req *r)
{
	return r->head.body != BODY_NONE || r->body_set || r->body.n != 0;
}

/* Was a secret attached to the request? */
static bool
req_attached(const struct req *r)
{
	size_t i = 0;

	while (i < r->head.nfields && !r->head.field[i].is_secret)
		i++;
	return i < r->head.nfields || r->new_path != NULL || r->new_query != NULL || r->body_set || r->body_secret;
}

static bool
req_out_chunked(const struct req *r)
{
	return r->head.body == BODY_CHUNKED ||
	    (r->head.body == BODY_LENGTH && r->up_flow.filter != NULL && !r->up_flow.filter->class->keeps_length);
}

/* A server may merge trailers into the head. A field that strip took out or apply set must not come back
 * that way: the agent's own key would stand beside ours. */
static bool
req_trailer_may_pass(const struct flow *f, const struct http_field *t)
{
	struct slice name = t->name;
	const struct req *r = OWNER(f, struct req, up_flow);
	struct slice left = buf_slice(&r->stripped_names);

	for (size_t i = 0; i < r->head.nfields; i++)
		if (r->head.field[i].own != NULL && name_same(r->head.field[i].name, name))
			return false;
	while (left.n != 0)
		if (name_same(slice_cut(&left, '\n'), name))
			return false;
	return true;
}

static bool
req_has_body(const struct req *r)
{
	return r->body_read ? r->body.n != 0 :
	    r->head.body != BODY_NONE && (r->head.body == BODY_CHUNKED || r->head.length != 0);
}

/* A server that ignores a body where none is usual would take it for the next request of its
 * connection, which may speak for us (a client certificate). */
static bool
req_odd_body(const struct req *r)
{
	struct slice method = r->head.method;

	return req_has_body(r) && (slice_eq(method, SLICE("GET")) || slice_eq(method, SLICE("HEAD")) ||
	    slice_eq(method, SLICE("DELETE")) || slice_eq(method, SLICE("OPTIONS")));
}

/* The head as it goes out. Its framing fields are ours alone, whatever the agent or a policy set, because
 * they say where the message ends. */
static bool
req_put_head(struct req *r, struct buf *b)
{
	buf_addv(b, r->head.method);
	buf_add(b, " ", 1);
	req_put_target(r, b);
	buf_adds(b, " HTTP/1.1\r\nHost: ");
	req_put_authority(r, b);
	buf_add(b, "\r\n", 2);
	for (const struct http_field *f = r->head.field; f < r->head.field + r->head.nfields; f++)
		if (f->mark == FIELD_KEPT && !((r->body_read || r->expect_sent) && slice_eq_nocase(f->name, SLICE("expect"))))
			put_field(b, f->name, f->value);        /* with the body there, 100 Continue was ours */
	if (r->body_read && req_wants_length(r))
		put_length(b, r->body.n);
	else if (!r->body_read && req_out_chunked(r))
		buf_adds(b, "Transfer-Encoding: chunked\r\n");
	else if (!r->body_read && r->head.body == BODY_LENGTH)
		put_length(b, r->head.length);
	if (r->websocket)
		buf_adds(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n");
	else if (req_odd_body(r))
		buf_adds(b, "Connection: close\r\n");
	return buf_add(b, "\r\n", 2);
}

/* ---- conn ------------------------------------------------------------------
 * A client's connection. The loop owns every conn; a conn owns at most one req, a req at most one
 * upstream and one task. State changes only in conn_advance and what it calls, never re-entered: an
 * event that comes while it runs makes it run once more. */
#define CONN_STEPS 64            /* state changes of one conn in a turn: some ten requests */
#define CONN_COST (32 * 1024)   /* --memory divided by this bounds the connections: one with TLS buffers */
#define CONN_HEAD_MS 30000
#define CONN_HEAD_UNKNOWN_MS 10000 /* until a token names the agent */
#define CONN_HANDSHAKE_MS 10000
#define CONN_BUSY_MS 20         /* between two tries to close, while a helper thread reads the body */
#define CONN_DECIDE_MS 120000   /* a task's own waits are shorter: this catches a lost one */
#define CONN_IDLE_MS 90000      /* between requests, and between the bytes of a body of known length */
#define CONN_REJUDGE_MS 60000   /* a stream's agent may have expired: nothing tells of that */
#define CONN_HELD_MS ((int64_t)1 << 40) /* a control connection, while what it handed over is served */
#define CONN_LINGER_MS 2000     /* reading on after the last answer, so that a reset does not eat it */
#define CONN_ACCEPT_PAUSE_MS 200 /* when descriptors have run out */
#define CONN_LINGER_MAX (256 * 1024)
#define CONN_LINGER_AGENT_MAX (16 * 1024 * 1024) /* many clients read an early answer only behind their whole body */

/* `answer-timeout`: the head of the upstream's answer; models think, and SDKs wait for 10 minutes.
 * `idle-timeout`: between the bytes of bodies of unknown length, WebSockets and tunnels, where silence
 * may be all that there is to say; TCP keep-alive finds the dead. A credential may have its own. */
static int64_t conn_answer_ms = 900000, conn_idle_ms = 3600000;

static size_t conn_count, conn_max = 4096, conn_unknown;
static bool conn_draining;

static void conn_advance(struct conn *);     /* events call it, and it calls the steps below */

/* -- deadlines, beginning and end */

static void conn_expire(struct conn *);      /* behind the states, whose deadlines differ in meaning */

/* Deadlines move with every byte; the timer moves only when it must come earlier. */
static void
conn_timer(struct timer *t)
{
	struct conn *c = OWNER(t, struct conn, timer);

	if (clock_now() >= c->deadline) {
		conn_expire(c);
		return;
	}
	timer_set(&c->timer, c->deadline, conn_timer);
	if (c->req != NULL && c->req->down_flow.filter != NULL)
		conn_advance(c);        /* it holds bytes back, and their time may have come */
}

static void
conn_deadline(struct conn *c, int64_t ms)
{
	c->deadline = clock_now() + ms;
	if (c->timer.slot == 0 || c->timer.at > c->deadline)
		timer_set(&c->timer, c->deadline, conn_timer);
}

/* A request whose head never came whole is not logged. */
static void
conn_drop_req(struct conn *c)
{
	struct req *r = c->req;

	c->req = NULL;
	if (r != NULL)
		req_free(r);
}

/* Does a helper thread read what the request holds? Then neither it nor its task may end. */
static bool
req_busy(const struct req *r)
{
	return r != NULL && r->task != NULL && r->task->busy;
}

/* `abort`: an answer is cut short, and the client must be able to tell: no close_notify, a reset. Always
 * false, for a step that has nothing more to do. */
static bool
conn_close(struct conn *c, bool abort_)
{
	const struct linger reset = {1, 0};

	if (c->state == CONN_CLOSED)
		return false;
	if ((c->closing = req_busy(c->req))) {
		conn_deadline(c, CONN_BUSY_MS);
		return false;
	}
	c->state = CONN_CLOSED;
	timer_stop(&c->timer);
	if (c->req != NULL) {
		if (c->req->code[0] == '\0' && c->req->status == 0)
			text_copy(c->req->code, sizeof c->req->code, "client_closed");
		reqlog_request(c->req);
		conn_drop_req(c);
	}
	if (abort_ && c->peer.watch.fd >= 0) {
		setsockopt(c->peer.watch.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	} else if (c->peer.tls != NULL && !c->peer.failed && tls_status(c->peer.tls) == TLS_OPEN) {
		tls_shutdown(c->peer.tls);
		peer_flush(&c->peer);
	}
	peer_close(&c->peer);
	if (c->counted_unknown)
		conn_unknown--;
	if (c->agent != NULL) {
		c->agent->conns--;
		agent_put(c->agent);
	}
	handover_left(c);
	LIST_REMOVE(c, link);
	conn_count--;
	wipe(c->token, sizeof c->token);
	loop_undefer(&c->defer);
	loop_defer(&c->defer, defer_free);
	return false;
}

static void
conn_turn(struct defer *d)
{
	conn_advance(OWNER(d, struct conn, defer));
}

/* Pumps a flow. FLOW_TURN becomes FLOW_WAIT, and a deferred call goes on in the next turn. */
static enum flow_io
conn_pump(struct conn *c, struct flow *f)
{
	enum flow_io io = flow_pump(f);

	if (io == FLOW_TURN)
		loop_defer(&c->defer, conn_turn);
	return io == FLOW_TURN ? FLOW_WAIT : io;
}

/* Pumps an answer. What its filter holds back goes on when its time has come. */
static enum flow_io
conn_pump_back(struct conn *c, struct flow *f)
{
	struct filter *filter = f->filter;
	enum flow_io io = conn_pump(c, f);

	/* one that is to hurry waits for room, of which the client's socket tells */
	if (filter != NULL && !filter->hurry && filter->hold_until != 0 && (c->timer.slot == 0 || c->timer.at > filter->hold_until))
		timer_set(&c->timer, filter->hold_until, conn_timer);
	return io;
}

static void
conn_ready(struct watch *w)
{
	conn_advance(OWNER(w, struct conn, peer.watch));
}

static void
conn_upstream_event(struct upstream *u)
{
	conn_advance(u->owner);
}

static void
conn_new(int fd, const struct listener *at)
{
	struct conn *c = malloc(sizeof *c);
	struct ucred peer = {.uid = (uid_t)-1};
	socklen_t len = sizeof peer;

	if (c == NULL) {
		close(fd);
		return;
	}
	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	*c = (struct conn){.at = at, .client = net_end(fd, false), .uid = peer.uid, .id = ++conn_ids,
	    .state = at->tls ? CONN_HANDSHAKE : CONN_HEAD, .counted_unknown = true};
	peer_init(&c->peer, fd, conn_ready);
	LIST_INSERT_HEAD(&conn_list, c, link);
	conn_count++;
	conn_unknown++;
	net_nodelay(fd);
	net_keepalive(fd);
	conn_deadline(c, CONN_HEAD_UNKNOWN_MS);
	if (at->captures)
		door_capture(c);
	handover_came(c);
	c->peer.watch.writable = true;
	if ((at->tls && (c->peer.tls = door_tls(c)) == NULL) ||
	    (at->kind == LISTEN_GATEWAY && !at->tls && !net_in(net.trusted, net.ntrusted, &c->client.addr)) ||
	    !watch_add(&c->peer.watch, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET))
		conn_close(c, true);
}

/* Connections without an agent have a tenth of all. The oldest makes room for `fd`: a flood of strangers
 * drives out strangers, and an agent's first request names the agent. Where half of them are of one address
 * (IPv6: a /64), which `fd` has too, it is the oldest of these. The list is newest first. */
static void
conn_evict_unknown(int fd)
{
	struct conn *oldest = NULL, *alike = NULL;
	struct addr from = net_end(fd, false).addr;
	size_t n = 0;

	for (struct conn *c = LIST_FIRST(&conn_list); c != NULL; c = LIST_NEXT(c, link)) {
		if (!c->counted_unknown || (c->state != CONN_HEAD && c->state != CONN_HANDSHAKE && c->state != CONN_SNIFF &&
		    c->state != CONN_H2))
			continue;
		oldest = c;
		if (c->client.addr.v4 == from.v4 && memcmp(c->client.addr.b, from.b, from.v4 ? 4 : 8) == 0) {
			alike = c;
			n++;
		}
	}
	if (n > conn_unknown / 2)
		oldest = alike;
	if (oldest != NULL)
		conn_close(oldest, false);
}

static struct timer conn_accept_timer;

static void
conn_resume_accept(struct timer *t)
{
	for (size_t i = 0; !conn_draining && i < net.nlisteners; i++)
		if (net.listeners[i].watch.fd >= 0 && net.listeners[i].kind == net.kind)
			watch_add(&net.listeners[i].watch, EPOLLIN | EPOLLEXCLUSIVE);
}

/* A connection was accepted there. */
static void
conn_take(int fd, const struct listener *at)
{
	/* The answer to a connection over conn_max; the other connections go on. */
	static const char busy[] = "HTTP/1.1 429 Too Many Requests (sallyport: too_many)\r\nContent-Length: 0\r\n"
	    "X-Sallyport-Error: too_many\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";

	if (conn_unknown > conn_max / 10 + 16)
		conn_evict_unknown(fd);
	if (conn_count < conn_max) {
		conn_new(fd, at);
		return;
	}
	if (send(fd, busy, sizeof busy - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_line("ev=refuse err=%s", strerror(errno));
	close(fd);
}

static void
conn_accept(struct watch *w)
{
	int fd = 0;

	/* The listener is level-triggered: the rest comes next turn. */
	for (int i = 0; i < 64 && (fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0; i++)
		conn_take(fd, OWNER(w, struct listener, watch));
	if (fd >= 0 || (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM))
		return;
	/* Out of descriptors: the listeners would be ready again and again, for nothing. */
	log_line("ev=accept err=\"%s\"", strerror(errno));
	for (size_t i = 0; i < net.nlisteners; i++)
		epoll_ctl(loop_fd, EPOLL_CTL_DEL, net.listeners[i].watch.fd, NULL);
	timer_set(&conn_accept_timer, clock_now() + CONN_ACCEPT_PAUSE_MS, conn_resume_accept);
}

/* -- the end of a request, and our own answers */

/* Nothing of the request body is left on the wire: the next request begins where this one ended. */
static bool
req_body_consumed(const struct req *r)
{
	return r->head.body == BODY_NONE || r->body_read || r->up_flow.done ||
	    (r->head.body == BODY_LENGTH && r->head.length == 0);
}

/* Flush, shut down writing, then read for CONN_LINGER_MS, so that a reset cannot overtake the answer
 * (RFC 9112 9.6). */
static void
conn_linger(struct conn *c)
{
	c->state = CONN_LINGER;
	if (c->peer.tls != NULL)
		tls_shutdown(c->peer.tls);
	conn_deadline(c, peer_pending(&c->peer) != 0 ? CONN_IDLE_MS : CONN_LINGER_MS);
}

static void
conn_next_request(struct conn *c)
{
	reqlog_request(c->req);
	conn_drop_req(c);
	if (c->last && agent_over(c->agent)) {
		conn_close(c, false);   /* not even for a while: it could open others faster */
	} else if (c->last || conn_draining) {
		conn_linger(c);
	} else {
		c->state = CONN_HEAD;
		conn_deadline(c, c->peer.over != NULL && c->agent != NULL ? CONN_HELD_MS :
		    c->agent == NULL && !c->tunnel ? CONN_HEAD_UNKNOWN_MS : CONN_IDLE_MS);
	}
}

/* The head of our own answer. */
static void
req_put_answer(const struct req *r, struct buf *b)
{
	static const struct { int status; const char *phrase; } phrases[] = {
		{200, "OK"}, {201, "Created"}, {204, "No Content"}, {303, "See Other"}, {400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"},
		{404, "Not Found"}, {405, "Method Not Allowed"}, {407, "Proxy Authentication Required"}, {408, "Request Timeout"},
		{413, "Content Too Large"}, {421, "Misdirected Request"}, {429, "Too Many Requests"},
		{431, "Request Header Fields Too Large"}, {502, "Bad Gateway"},
		{503, "Service Unavailable"}, {504, "Gateway Timeout"}, {505, "HTTP Version Not Supported"},
		{0, "Error"},
	};
	size_t i = 0;

	while (phrases[i].status != 0 && phrases[i].status != r->status)
		i++;
	buf_addf(b, "HTTP/1.1 %d %s", r->status, phrases[i].phrase);
	if (r->code[0] != '\0')         /* many clients show the phrase of an error, and nothing else */
		buf_addf(b, " (sallyport: %s)\r\nX-Sallyport-Error: %s\r\nX-Agent-Vault-Proxy-Error: true", r->code, r->code);
	if (r->status != 204)
		buf_addf(b, "\r\nContent-Length: %zu", r->answer.n);
	buf_addv(b, buf_slice(&r->fields));
	if (r->answer.n != 0 && r->answer_json)
		buf_adds(b, "\r\nContent-Type: application/json");
	if (r->status == 407)
		buf_adds(b, "\r\nProxy-Authenticate: Basic realm=\"sallyport\"");
	if (r->status == 405 || r->status == 204)
		buf_adds(b, "\r\nAllow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
	if (r->retry_after > 0)
		buf_addf(b, "\r\nRetry-After: %d", r->retry_after);
	buf_addf(b, "%s%s\r\n\r\n", r->answer_json ? "\r\nCache-Control: no-store" : "", r->conn->last ? "\r\nConnection: close" :
	    r->head.minor == 0 ? "\r\nConnection: keep-alive" : "");
}

/* The action is REQ_REPLY: write it, and see whether the connection can go on. Always false, as conn_close. */
static bool
conn_begin_answer(struct conn *c)
{
	struct req *r = c->req;
	struct buf *b = &r->out_head;

	upstream_drop(&r->up);
	c->last = c->last || r->close_after || !r->head.keep_alive || !req_body_consumed(r);
	buf_clear(b);
	if ((c->socks != 0 || c->at->captures) && !c->tunnel)
		door_answer(c, b);
	else
		req_put_answer(r, b);
	if (!buf_ok(b) || !peer_put(&c->peer, b->p, b->n))
		return conn_close(c, true);
	flow_attach(&r->down_flow, NULL);       /* a filter was for the upstream's answer */
	flow_init(&r->down_flow, NULL, &c->peer, BODY_LENGTH,
	    slice_eq(r->head.method, SLICE("HEAD")) ? 0 : r->answer.n, false);
	r->down_flow.from = buf_slice(&r->answer);
	r->t_first = clock_now();
	r->bytes_down = r->answer.n;
	c->state = CONN_ANSWER;
	conn_deadline(c, CONN_IDLE_MS);
	return false;
}

static bool
conn_fail(struct conn *c, int status, const char *code, const char *message)
{
	req_failf(c->req, status, code, message);
	return conn_begin_answer(c);
}

/* -- CONN_HEAD */

/* Other protocols by their first bytes, and an answer that their clients can show. */
static const struct {
	struct slice begins, answer;
	const char *what;
} conn_foreign[] = {
	/* a handshake record; a fatal alert, handshake_failure (RFC 5246 6.2.1, 7.2) */
	{SLICE_INIT("\x16\x03"), SLICE_INIT("\x15\x03\x01\0\x02\x02\x28"),
	    "TLS (the proxy's URL begins with http://)"},
	/* rejected (SOCKS4: version 0, code 91) */
	{SLICE_INIT("\x04"), SLICE_INIT("\0\x5b\0\0\0\0\0\0"), "SOCKS4 (socks5h:// names a proxy of version 5)"},
	/* SETTINGS, and GOAWAY with HTTP_1_1_REQUIRED (RFC 9113 3.4, 6.8, 7) */
	{SLICE_INIT("PRI * HTTP/2.0\r\n"), SLICE_INIT("\0\0\0\x04\0\0\0\0\0"
	    "\0\0\x22\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0dthis proxy speaks HTTP/1.1"), "HTTP/2 (it speaks HTTP/1.1)"},
};

/* The first bytes of a request. False: there is no request yet. */
static bool
conn_head_begin(struct conn *c, struct slice in)
{
	size_t skip = 0;

	/* RFC 9112 2.2: an empty line before a request line is ignored. */
	while (skip + 1 < in.n && skip < 4 && in.p[skip] == '\r' && in.p[skip + 1] == '\n')
		skip += 2;
	if (skip != 0) {
		peer_consume(&c->peer, skip);
		return false;
	}
	for (size_t i = 0; i < COUNT(conn_foreign); i++)
		if (in.n >= conn_foreign[i].begins.n &&
		    memcmp(in.p, conn_foreign[i].begins.p, conn_foreign[i].begins.n) == 0) {
			/* Prior knowledge (RFC 9113 3.3): in a plain tunnel, and on a Unix socket, whose clients nobody has to
			 * tell apart by their network. */
			if (i == 2 && H2_BUILT && (c->tunnel ? !c->secure : c->at->kind == LISTEN_PROXY && c->at->at.port == 0 &&
			    !c->at->control && c->peer.stream == NULL)) {
				c->state = CONN_H2;
				return false;
			}
			reqlog_note(c, "not_http", conn_foreign[i].what);
			peer_put(&c->peer, conn_foreign[i].answer.p, conn_foreign[i].answer.n);
			conn_linger(c);
			return false;
		}
	if ((c->req = req_new(c)) == NULL)
		return conn_close(c, true);
	c->socks = c->at->dns ? SOCKS_DNS : in.p[0] == 5 && !c->tunnel && c->at->kind == LISTEN_PROXY && !c->at->control;
	c->scanned = 0;
	conn_deadline(c, c->agent == NULL && !c->tunnel ? CONN_HEAD_UNKNOWN_MS : CONN_HEAD_MS);
	return true;
}

/* A whole head is in r->bytes. */
static void
conn_begin_decide(struct conn *c)
{
	struct req *r = c->req;
	int ask = LUA_NOREF;

	c->state = CONN_DECIDE;
	conn_deadline(c, CONN_DECIDE_MS);
	if (!req_parse(r)) {            /* a head without an end ends here too: -431 or -400 */
		conn_begin_answer(c);
	} else if (!kept_again(r, &ask) && !req_start(r, r->form == REQ_CONNECT ? ENTRY_CONNECT : ENTRY_REQUEST, ask)) {
		r->close_after = true;
		conn_fail(c, 503, "injection_unavailable", "out of memory");
	}
}

static bool
conn_step_head(struct conn *c)
{
	enum io io;
	bool whole;

	if (peer_flush(&c->peer) == IO_ERR)
		return conn_close(c, true);
	if (!peer_room(&c->peer, PEER_OUT_HEAD))
		return false;           /* a client that pipelines and does not read: it waits */
	io = peer_fill(&c->peer);
	if (io == IO_AGAIN && (c->req != NULL || !conn_draining)) {
		if (c->req == NULL)
			peer_park(&c->peer);
		return false;
	}
	if (io != IO_OK) {              /* half a head is no request, and is not logged */
		conn_drop_req(c);
		if (io == IO_ERR && c->peer.tls != NULL && tls_status(c->peer.tls) == TLS_FAILED)
			reqlog_note(c, "client_tls", tls_why(c->peer.tls));  /* it judges us late */
		if (io == IO_ERR)
			return conn_close(c, false);
		conn_linger(c);         /* a client that has said all may still be reading */
		return true;
	}
	if (c->req == NULL && !conn_head_begin(c, peer_data(&c->peer)))
		return c->state != CONN_CLOSED;
	if (c->socks != 0 && !c->tunnel ? !socks_take_head(c, &whole) :
	    !peer_take_head(&c->peer, &c->req->bytes, &c->scanned, &whole))
		return conn_close(c, true);
	if (!whole)
		return true;
	conn_begin_decide(c);
	return true;
}

/* Does the client no longer wait for the answer? A plain client may have ended its side and still read.
 * So may one that sent close_notify: BearSSL would close both ways at a close_notify, so the alert stays
 * on the wire until the answer is out. An alert with the end of the wire behind it is a client that
 * closed. */
static bool
conn_client_gone(struct conn *c)
{
	enum io io;

	if (!c->peer.watch.hup && !c->peer.watch.readable && c->peer.in == NULL)
		return false;
	c->peer.hold_alerts = true;
	io = peer_fill(&c->peer);
	c->peer.hold_alerts = false;
	return io == IO_ERR || (io == IO_EOF && c->peer.tls != NULL && c->peer.watch.hup);
}

/* -- CONN_DECIDE: a task decides; it may have the body read for it meanwhile (req:read_body). */

static void
conn_read_body(struct conn *c)
{
	struct req *r = c->req;
	uint64_t before = c->peer.received;
	size_t left = r->body_most - r->body.max, more = left < FLOW_TURN_MAX ? left : FLOW_TURN_MAX;
	enum flow_io io;

	/* Room is counted for what the next turn may bring of a body whose length nobody said. */
	if (r->body.max - r->body.n < FLOW_TURN_MAX + PEER_PIECE && bodies_count(r->body_share, 0, more))
		r->body.max += more;
	io = conn_pump(c, &r->up_flow);
	r->bytes_up = r->up_flow.moved;
	if (c->peer.received != before)
		conn_deadline(c, CONN_IDLE_MS);
	if (io == FLOW_WAIT && (r->up_flow.enough == 0 || r->body.n < r->up_flow.enough))
		return;
	r->body_reading = false;
	r->body_read = io == FLOW_DONE;
	if (io == FLOW_DONE || io == FLOW_WAIT) {
		conn_deadline(c, CONN_DECIDE_MS);
	} else if (io == FLOW_DST_GONE) {
		r->body_error = r->body.max == r->body_most && r->up_flow.piece.n > r->body.max - r->body.n ?
		    "too_large" : "no_memory";
	} else {
		r->close_after = true;
		r->body_error = io == FLOW_BAD ? "malformed" : "eof";
	}
	req_wake_body(r);
}

/* The start of req:read_body, or, where its beginning was read, of more of it. begin: `max` bytes are enough.
 * False: r->body_error says why not. */
static bool
req_begin_body(struct req *r, size_t max, bool begin)
{
	struct conn *c = r->conn;
	bool first = r->up_flow.into == NULL;
	size_t most = max + (begin ? PEER_PIECE : 0);

	if (r->head.body == BODY_NONE || (r->head.body == BODY_LENGTH && r->head.length == 0))
		return r->body_read = true;
	r->body_error = NULL;
	if (first)
		r->body_share = r->counted != NULL ? &r->counted->bodies : NULL;
	if (r->head.body == BODY_LENGTH && r->head.length > max && !begin) {
		r->body_error = "too_large";
		return false;
	}
	r->body_most = r->head.body == BODY_LENGTH && r->head.length < most ? (size_t)r->head.length : most;
	if (r->body_most < r->body.max)
		r->body_most = r->body.max;
	most = begin || r->head.body == BODY_LENGTH || max < REQ_BODY_STEP ? r->body_most : REQ_BODY_STEP;
	if (most > r->body.max) {
		if (!bodies_count(r->body_share, r->body.max, most)) {
			r->body_error = "no_memory";
			return false;
		}
		r->body.max = most;
	}
	if (first)
		flow_init(&r->up_flow, &c->peer, NULL, (int)r->head.body, r->head.length, false);
	r->up_flow.into = &r->body;
	r->up_flow.enough = begin ? max : 0;
	r->body_reading = true;
	if (r->head.expect_continue && !r->expect_sent) {
		r->expect_sent = true;
		if (!peer_put(&c->peer, "HTTP/1.1 100 Continue\r\n\r\n", 25) ||
		    peer_flush(&c->peer) == IO_ERR) {
			r->body_error = "eof";
			return false;
		}
	}
	loop_defer(&c->defer, conn_turn);
	return true;
}

static bool conn_begin_dial(struct conn *);  /* stands with the state it begins, CONN_DIAL */

/* A tunnel is open. Where this fails, the next step sees it. */
static void
conn_established(struct conn *c)
{
	static const char http[] = "HTTP/1.1 200 Connection established\r\n\r\n";

	if (c->socks != 0)
		peer_put(&c->peer, "\5\0\0\1\0\0\0\0\0\0", 10);
	else if (!c->at->captures)      /* such a client asked nobody */
		peer_put(&c->peer, http, sizeof http - 1);
}

/* The task has ended, and left an action in the req (or kept_again did, without a task). */
static void
conn_act(struct conn *c)
{
	struct req *r = c->req;

	if (!r->task_ok && r->action != REQ_REPLY) {
		char message[160];

		snprintf(message, sizeof message, r->credential[0] != '\0' ?
		    "the policy of credential %s failed" : "a policy failed%s", r->credential);
		req_failf(r, 502, "policy_failed", message);
	}
	if (r->too_many && r->action != REQ_REPLY) {
		r->retry_after = 1;
		req_failf(r, 429, "too_many", "this agent has its share of connections or requests in use");
	}
	r->close_after = r->close_after || (r->too_many && agent_over(c->agent));
	if (r->action == REQ_FORWARD && r->last_hop) {
		r->action = REQ_REPLY;  /* RFC 9110 9.3.7: what may be asked of us; nothing is said of the path */
		r->status = 204;
		r->allowed = true;
	}
	if (r->action == REQ_UNDECIDED)
		req_failf(r, 502, "policy_failed", "nothing was decided");
	if (r->action == REQ_REPLY) {
		conn_begin_answer(c);
	} else if (r->action == REQ_INTERCEPT) {
		memcpy(c->host, r->host, sizeof c->host);
		c->port = r->port;
		memcpy(c->token, r->token, sizeof c->token);
		c->tunnel = true;
		c->is_git = slice_begins_nocase(http_value(&r->head, SLICE("user-agent")), SLICE("git/"));
		r->allowed = true;
		conn_established(c);
		conn_drop_req(c);
		c->state = CONN_SNIFF;
		conn_deadline(c, CONN_HANDSHAKE_MS);
	} else {
		conn_begin_dial(c);
	}
}

static bool
conn_step_decide(struct conn *c)
{
	struct req *r = c->req;

	if (c->closing)
		return conn_close(c, true);
	if (r->body_reading)
		conn_read_body(c);
	if (r->task_done) {
		conn_act(c);
		return true;
	}
	if (!r->body_reading && conn_client_gone(c))
		return conn_close(c, true);    /* hung up: the task is abandoned, a refresh it began goes on */
	return false;
}

/* -- CONN_DIAL */

/* The key of an upstream in the pool: agent, credential, host, scheme, port, upstream proxy, identity.
 * Names hold no "|". */
static void
req_pool_key(const struct req *r, bool tls, bool h2, char key[UPSTREAM_KEY_MAX])
{
	const char *const parts[] = {r->agent, r->credential, r->dial_host, tls ? h2 ? "tls2" : "tls" : h2 ? "plain2" : "plain"};
	struct slice tag = tls_ident_tag(r->ident);
	unsigned through = r->via ? via.epoch : 0;
	size_t n = 0;

	for (size_t i = 0; i < COUNT(parts); i++) {
		size_t len = strlen(parts[i]);

		memcpy(key + n, parts[i], len);
		n += len;
		key[n++] = '|';
	}
	n += hex_encode(key + n, &r->dial_port, sizeof r->dial_port);
	n += hex_encode(key + n, &through, sizeof through);
	n += hex_encode(key + n, tag.p, tag.n);
	key[n] = '\0';
}
_Static_assert(UPSTREAM_KEY_MAX > 2 * REQ_NAME_MAX + 256 + 48 + 64, "a pool key fits");

/* Also goes on with a request that waited (CONN_DIAL without an upstream): once its deadline has passed, it dials. Always
 * false, as conn_close. */
static bool
conn_begin_dial(struct conn *c)
{
	struct req *r = c->req;
	bool waited = c->state == CONN_DIAL;
	bool tls = r->action == REQ_FORWARD && r->secure, h2 = H2_BUILT && r->action == REQ_FORWARD && !r->websocket &&
	    (r->http == 2 || (r->http == 0 && tls && c->peer.stream != NULL));
	struct upstream *found = NULL;
	char key[UPSTREAM_KEY_MAX];

	/* The client's own fields were counted as they came: beside a secret they would tell its length. */
	if (r->action == REQ_FORWARD && !waited && (!req_put_head(r, &r->out_head) ||
	    r->out_head.n > r->bytes.n + REQ_ATTACHED_MAX))
		return conn_fail(c, 502, "injection_failed", "what is attached to the head is over 20 KiB");
	r->sent = true;
	c->state = CONN_DIAL;
	req_pool_key(r, tls, h2, key);
	if (h2 && upstream_wants_http1(key, false))
		req_pool_key(r, tls, h2 = false, key);
	if (r->action == REQ_FORWARD && !r->retried && !r->websocket &&
	    (r->up = upstream_take(key, r->allow, r->nallow)) == NULL && h2)
		found = h2_find(r, key);
	if (found != NULL && found->leads && (!waited || clock_now() < c->deadline)) {
		found->awaited = true;
		if (!waited)            /* one that hangs leaves time to dial */
			conn_deadline(c, net_dial_ms / 4);
		return false;
	}
	conn_deadline(c, net_dial_ms + CONN_DECIDE_MS); /* dial and handshake have deadlines of their own */
	if ((found != NULL && !found->leads) || (r->up != NULL && r->up->peer.h2 != NULL))
		r->up = h2_join(r, r->up != NULL ? r->up : found);
	else if (r->up == NULL && (r->up = upstream_new(key, r->dial_host, r->dial_port, tls, r->ident, r->via)) != NULL &&
	    (r->up->h2 = r->up->leads = h2))
		LIST_INSERT_HEAD(&upstream_h2, r->up, h2_link);
	if (r->up == NULL)
		return conn_fail(c, 503, "injection_unavailable", "out of memory");
	r->up->owner = c;
	r->up->event = conn_upstream_event;
	r->up->unread = r->action == REQ_BLIND;
	r->up->dial.owner = text_hash(r->agent);
	r->up->dial.path = c->at->control ? r->up->host : NULL;
	if (r->up->state == UP_DIAL)
		upstream_dial(r->up, r->allow, r->nallow);
	return false;
}

static void
conn_dial_failed(struct conn *c)
{
	struct req *r = c->req;
	const char *code = r->up->code, *why = r->up->why;
	bool blocked = strcmp(code, "address_blocked") == 0, unset = strcmp(code, "clock_unset") == 0;
	bool tls = strcmp(code, "upstream_tls") == 0;
	const char *hint = blocked ? "the operator can allow it with --address CIDR on the credential or domain entry" :
	    strncmp(why, "untrusted certificate", 21) == 0 ?
	    "the operator can trust it: ca=@FILE on the credential, or sallyport set upstream-ca FILE" :
	    strcmp(code, "upstream_proxy") == 0 ? "the operator sets it: sallyport set upstream-proxy; "
	    "sallyport set upstream-no-proxy HOST does without it" : "";
	char message[384];

	if (unset)
		r->retry_after = 60;
	snprintf(message, sizeof message, "%s%s%s: %s", tls ? "TLS to " : "", host_text(r->dial_host),
	    r->via && tls ? " through the upstream proxy" : "", why);
	req_fail(r, blocked ? 403 : unset ? 503 : 502, code, slice_of(message), slice_of(hint));
	conn_begin_answer(c);
}

static void
conn_begin_blind(struct conn *c)
{
	struct req *r = c->req;

	flow_init(&r->up_flow, &c->peer, &r->up->peer, BODY_EOF, 0, false);
	flow_init(&r->down_flow, &r->up->peer, &c->peer, BODY_EOF, 0, false);
	r->allowed = true;
	c->state = CONN_BLIND;
	conn_deadline(c, r->hello == HELLO_MORE ? CONN_HANDSHAKE_MS : r->idle_ms);
}

/* How long may no byte move? `sent`: the whole request is on its way. */
static int64_t
req_patience(const struct req *r, bool sent)
{
	int mode = r->answer_begun || r->answer_held ? r->down_flow.mode : r->body_read ? BODY_LENGTH : r->up_flow.mode;

	if (!r->answer_begun && !r->answer_held && sent)
		return r->answer_ms;
	return mode == BODY_LENGTH && r->idle_ms > CONN_IDLE_MS ? CONN_IDLE_MS : r->idle_ms;
}

static bool
conn_step_dial(struct conn *c)
{
	struct req *r = c->req;

	if ((r->up == NULL || r->up->state < UP_OPEN) && (c->peer.failed || (req_body_consumed(r) && conn_client_gone(c))))
		return conn_close(c, true);
	if (r->up == NULL)      /* it waits */
		conn_begin_dial(c);
	if (c->state == CONN_DIAL && r->up != NULL && r->up->state == UP_FAILED)
		conn_dial_failed(c);
	if (c->state != CONN_DIAL || r->up == NULL || r->up->state != UP_OPEN)
		return c->state != CONN_DIAL;
	if (r->action == REQ_BLIND) {
		if (c->at->control)     /* nobody asked for a tunnel: the request's head is its first bytes */
			peer_put(&r->up->peer, r->bytes.p, r->bytes.n);
		else
			conn_established(c);
		r->status = 200;
		conn_begin_blind(c);
		return true;
	}
	if (r->up->h2 && r->up->peer.stream == NULL && (r->up = h2_join(r, r->up)) == NULL)
		return conn_fail(c, 503, "injection_unavailable", "out of memory"), true;
	peer_put(&r->up->peer, r->out_head.p, r->out_head.n);   /* where this fails, so does the flow behind it */
	buf_recycle(&r->out_head, FLOW_BUF_KEEP);
	r->allowed = true;
	if (r->body_read) {
		flow_init(&r->up_flow, NULL, &r->up->peer, BODY_LENGTH, r->body.n, false);
		r->up_flow.from = buf_slice(&r->body);
	} else {
		if (r->up_flow.into == NULL)
			flow_init(&r->up_flow, &c->peer, NULL, (int)r->head.body, r->head.length, req_out_chunked(r));
		else
			r->up_flow.from = buf_slice(&r->body);  /* its beginning was read; the rest follows */
		r->up_flow.into = NULL;
		r->up_flow.dst = &r->up->peer;
		r->up_flow.out_chunked = req_out_chunked(r);
		r->up_flow.enough = r->up_flow.moved = 0;
		r->up_flow.may_pass = req_trailer_may_pass;
	}
	c->state = CONN_RELAY;
	conn_deadline(c, req_patience(r, req_body_consumed(r)));
	return true;
}

/* -- CONN_RELAY */

/* The upstream failed or ended (502), or stalls (504). Before an answer began the client can be told in
 * words. Always false, so that a step may return it. */
static bool
conn_upstream_gone(struct conn *c, int status, const char *why)
{
	struct req *r = c->req;
	const char *code = status == 504 ? "upstream_timeout" : "upstream_unreachable";
	struct slice method = r->head.method;
	char message[384];

	/* A pooled connection may die just as we use it. Sent again only where nothing can have happened
	 * twice: no byte of an answer, no body, an idempotent method (RFC 9110 9.2.2); or HTTP/2 told so. */
	if (status == 502 && !r->retried && !r->up_seen && !r->answer_begun &&
	    (r->up->refused ? r->head.body == BODY_NONE || (r->body_read && r->up_flow.filter == NULL) : r->up->requests != 0 &&
	    r->head.body == BODY_NONE && !req_wants_length(r) &&
	    (slice_eq(method, SLICE("GET")) || slice_eq(method, SLICE("HEAD")) || slice_eq(method, SLICE("PUT")) ||
	    slice_eq(method, SLICE("OPTIONS")) || slice_eq(method, SLICE("DELETE"))))) {
		upstream_drop(&r->up);
		r->retried = true;
		r->up_h2 = false;
		return conn_begin_dial(c);
	}
	if (status == 502 && r->up->peer.tls != NULL && tls_status(r->up->peer.tls) == TLS_FAILED) {
		code = "upstream_tls";          /* in TLS 1.3 a server judges our certificate behind the handshake */
		why = tls_why(r->up->peer.tls);
	}
	text_copy(r->code, sizeof r->code, code);
	if (r->answer_begun)
		return conn_close(c, true);
	snprintf(message, sizeof message, "%s %s%s", host_text(r->dial_host), status == 502 && r->up->why != NULL ?
	    "ended the request in HTTP/2: " : "", status == 502 && r->up->why != NULL ? r->up->why : why);
	return conn_fail(c, status, code, message);
}

/* NTLM and Negotiate authenticate the connection, not the request: no other request may use it. */
static bool
is_tainted(const struct http_head *h)
{
	for (const struct http_field *f = h->field; f < h->field + h->nfields; f++)
		if ((f->rule & (HDR_AUTH | HDR_PROXY)) != 0 && (slice_begins_nocase(f->value, SLICE("ntlm")) ||
		    slice_begins_nocase(f->value, SLICE("negotiate"))))
			return true;
	return false;
}

/* May a trailer of the answer be sent on? One that repeats an attached secret is dropped; in a head the
 * secret would be replaced. */
static bool
answer_trailer_may_pass(const struct flow *f, const struct http_field *t)
{
	const struct req *r = OWNER(f, struct req, down_flow);

	return !scrub_in(r->back, t->value) && !scrub_in(r->back, t->name);
}

/* Status line and fields of the answer, without framing. Secrets that we attached are replaced by what
 * the client had sent in their place: any server may repeat any field (CORS an Origin, a tracer an id, a
 * login a cookie), in whichever field it likes. */
static void
answer_put_fields(struct buf *b, const struct req *r, const struct http_head *h)
{
	buf_adds(b, "HTTP/1.1 ");
	buf_addu(b, (uint64_t)h->status);
	buf_add(b, " ", 1);
	if (r->echoes)
		scrub_put(r->back, h->reason, b);
	else
		buf_addv(b, h->reason);
	buf_add(b, "\r\n", 2);
	for (const struct http_field *f = h->field; f < h->field + h->nfields; f++) {
		if ((f->rule & (HDR_HOP | HDR_FRAMING | HDR_PROXY | HDR_OURS | HDR_ANSWER_DROP)) != 0 || f->mark != FIELD_KEPT ||
		    (r->form == REQ_DOOR && !http_door_passes(f)))
			continue;
		if (!r->echoes) {
			put_field(b, f->name, f->value);
		} else if (!scrub_in(r->back, f->name)) {
			buf_addv(b, f->name);
			buf_add(b, ": ", 2);
			scrub_put(r->back, f->value, b);
			buf_add(b, "\r\n", 2);
		}
	}
	if (r->fields.n != 0)   /* its lines begin with CRLF */
		buf_add(b, r->fields.p + 2, r->fields.n - 2), buf_adds(b, "\r\n");
	if (r->refused)         /* or a client begins to sign in where there is nothing to sign in with */
		buf_addf(b, "X-Sallyport-Note: credential_refused; credential=%s\r\n", r->credential);
}

/* Framing fields of the answer, Connection, and the flow of its body. */
static void
answer_put_framing(struct buf *b, struct req *r, const struct http_head *h)
{
	struct conn *c = r->conn;
	struct flow *f = &r->down_flow;
	bool keeps = f->filter == NULL || f->filter->class->keeps_length;
	bool no_body = slice_eq(r->head.method, SLICE("HEAD")) || h->status == 204 || h->status == 304;
	bool chunk = false;

	if (no_body) {
		/* RFC 9110 8.6: what a GET would have had, as it came. */
		int i = h->status == 204 || !keeps ? -1 : http_find(h, SLICE("content-length"), 0);

		if (i >= 0)
			put_field(b, SLICE("Content-Length"), h->field[i].value);
	} else if (r->answer_held) {    /* as long as the search left it */
		put_length(b, r->answer.n);
	} else if (h->body == BODY_LENGTH && keeps) {
		put_length(b, h->length);
	} else if (h->body == BODY_NONE) {
		buf_adds(b, "Content-Length: 0\r\n");
	} else if (r->head.minor == 0) {
		c->last = true;         /* HTTP/1.0 knows no chunks: the end of the connection is the end */
	} else {
		chunk = true;
		buf_adds(b, "Transfer-Encoding: chunked\r\n");
	}
	flow_init(f, r->answer_held ? NULL : &r->up->peer, &c->peer, no_body ? BODY_NONE : r->answer_held ? BODY_LENGTH : (int)h->body,
	    r->answer_held ? r->answer.n : h->length, chunk);
	f->from = buf_slice(&r->answer);
	f->may_pass = answer_trailer_may_pass;
	if (c->last)
		buf_adds(b, "Connection: close\r\n");
	else if (r->head.minor == 0)
		buf_adds(b, "Connection: keep-alive\r\n");
}

/* How much a buffer of a head keeps once that has gone: nothing in a stream, which may stand for hours. */
static size_t
req_head_keep(const struct req *r)
{
	return r->websocket || r->down_flow.mode > BODY_LENGTH ? 0 : FLOW_BUF_KEEP;
}

/* The head of an answer goes on to the client: an interim one, a WebSocket's, or one with a body. */
static bool
conn_put_head(struct conn *c, const struct http_head *h)
{
	struct buf *b = &c->req->out_head;
	bool ok;

	answer_put_fields(b, c->req, h);
	if (h->status == 101)
		buf_adds(b, "Connection: Upgrade\r\nUpgrade: websocket\r\n");
	else if (h->status >= 200)
		answer_put_framing(b, c->req, h);
	ok = buf_add(b, "\r\n", 2) && peer_put(&c->peer, b->p, b->n);
	buf_recycle(b, req_head_keep(c->req));
	return ok;
}

/* Answers with a filter's fault. Always false. */
static bool
conn_fault(struct conn *c, const struct filter_fault *why)
{
	if (why->status == 503)
		c->req->retry_after = 1;
	req_fail(c->req, why->status, why->code, slice_of(why->message), slice_of(why->hint));
	return conn_begin_answer(c);
}

static enum scrub_way
answer_scrub(struct req *r, const struct http_head *h)
{
	return scrub_begin(r->back, h, r->scrub, &r->tally, r->counted != NULL ? &r->counted->bodies : NULL, &r->down_flow);
}

/* Why an answer cannot go on. */
static const struct filter_fault *
answer_fault(struct req *r)
{
	return r->seal != NULL ? seal_fault(r) : r->tally.over || r->mcp == NULL ? scrub_fault(&r->tally) : mcp_fault();
}

/* Gathers a held body. Once it is whole, and read, head and body go on, without what was attached. `h`: the head, as long
 * as it is there; else NULL. False: the body is not whole, or the conn has left CONN_RELAY. */
static bool
conn_gather_answer(struct conn *c, struct http_head *h)
{
	static struct http_head head;   /* dead before this returns */
	struct req *r = c->req;
	enum flow_io io = r->answer_io != 0 ? (enum flow_io)(r->answer_io - 1) : conn_pump(c, &r->down_flow);

	if (io == FLOW_WAIT)
		return false;
	r->answer_io = io + 1;
	if (io != FLOW_DONE && r->seal == NULL && (r->mcp == NULL || io != FLOW_DST_GONE))
		return conn_upstream_gone(c, 502, "closed the connection within its answer");
	flow_attach(&r->down_flow, NULL);       /* of events: they were judged on their way into memory */
	if (h == NULL && http_parse_response(r->up_bytes.p, r->up_bytes.n, r->head.method, h = &head) <= 0)
		return conn_close(c, true);
	if (r->seal != NULL && !seal_whole(r, h)) {
		loop_defer(&c->defer, conn_turn);
		return false;
	}
	if (r->seal != NULL ? !seal_answer(r, h, io) :
	    (r->mcp != NULL && !mcp_answer(r, h, io)) || !scrub_body(r->back, &r->answer, &r->tally))
		return conn_fault(c, answer_fault(r));
	if (!conn_put_head(c, h))
		return conn_close(c, true);
	return r->answer_begun = true;
}

/* A whole final head is in up_bytes. */
static bool
conn_begin_down(struct conn *c, struct http_head *h)
{
	struct req *r = c->req;
	enum scrub_way way;

	r->status = h->status;
	r->up_status = h->status;
	r->t_first = clock_now();
	r->up_keep = h->keep_alive && !req_odd_body(r);
	if (h->keep_ms != 0 && h->keep_ms < r->up->keep_ms)
		r->up->keep_ms = h->keep_ms;
	if (is_tainted(h) || is_tainted(&r->head))
		OWNER(h2_wire(&r->up->peer), struct upstream, peer)->tainted = true;
	r->refused = h->status == 401 && req_attached(r) && !r->unsealed;
	if ((r->watch && h->status >= 400) || r->refused)
		req_tell_answer(r, h);
	if (r->judges && !req_judge_answer(r, h))
		return conn_begin_answer(c);
	if (h->status == 101 && r->seal == NULL && r->mcp == NULL) {
		if (!r->websocket || !websocket_accepted(http_value(&r->head, SLICE("sec-websocket-key")), h))
			return conn_upstream_gone(c, 502, "answered 101 without being asked");
		if (!filter_ws_attach(&r->up_flow, r->subst) || !conn_put_head(c, h) || answer_scrub(r, h) == SCRUB_FAILS)
			return conn_close(c, true);
		conn_begin_blind(c);
		return false;           /* CONN_RELAY is over */
	}
	if (r->form == REQ_DOOR && h->status == 401)    /* or the caller would take its own token for bad */
		return conn_upstream_gone(c, 502, "refused the credential");
	/* An early answer: the rest of the body is no request, and a client that hears of it in time need
	 * not send it (RFC 9112 9.6). */
	if (!r->head.keep_alive || conn_draining || !req_body_consumed(r))
		c->last = true;
	way = r->seal != NULL ? seal_begin(r, h) : r->mcp != NULL ? mcp_begin(r, h) : answer_scrub(r, h);
	if (way == SCRUB_FAILS)
		return conn_fault(c, answer_fault(r));
	if (way == SCRUB_HELD) {
		r->up_keep = r->up_keep && h->body != BODY_EOF;
		flow_init(&r->down_flow, &r->up->peer, NULL, (int)h->body, h->length, false);
		r->down_flow.into = &r->answer;
		r->answer_held = true;
		return conn_gather_answer(c, h);
	}
	if (!conn_put_head(c, h))
		return conn_close(c, true);
	buf_recycle(&r->up_bytes, req_head_keep(r));
	return r->answer_begun = true;
}

/* Reads a response head. False: wait, or the conn has left CONN_RELAY. */
static bool
conn_read_answer(struct conn *c)
{
	struct req *r = c->req;
	static struct http_head head;   /* 4 KiB of slices; dead before this returns */
	char why[128];
	enum io io;
	bool whole;

	if (!peer_room(&c->peer, PEER_OUT_HEAD))
		return false;
	if ((io = peer_fill(&r->up->peer)) == IO_AGAIN)
		return false;
	if (io != IO_OK)
		return conn_upstream_gone(c, 502, "closed the connection without an answer");
	r->up_seen = true;
	if (!peer_take_head(&r->up->peer, &r->up_bytes, &r->up_scanned, &whole))
		return conn_upstream_gone(c, 502, "sent a head for which there is no memory");
	if (memcmp(r->up_bytes.p, "HTTP/", r->up_bytes.n < 5 ? r->up_bytes.n : 5) != 0)
		return conn_upstream_gone(c, 502, "speaks something else than HTTP/1.1 on this port");
	if (!whole)
		return true;
	if (http_parse_response(r->up_bytes.p, r->up_bytes.n, r->head.method, &head) <= 0) {
		head_tell(&head, "sent an answer with", why, sizeof why);
		return conn_upstream_gone(c, 502, why);
	}
	r->echoes = scrub_in(r->back, buf_slice(&r->up_bytes));
	r->tally.free = r->scrub == SCRUB_OFF;
	if (r->echoes && !scrub_note(r->back, &r->tally))
		return conn_fault(c, scrub_fault(&r->tally));
	if (head.status >= 200 || head.status == 101)
		return conn_begin_down(c, &head);
	if (r->seal != NULL || r->mcp != NULL || r->judges)     /* nothing of this answer is told before it was judged */
		head.nfields = 0;
	/* A 1xx goes on to a client that can read it (RFC 9110 15.2). */
	if (r->head.minor != 0 && !(head.status == 100 && r->expect_sent) && !conn_put_head(c, &head))
		return conn_close(c, true);
	buf_clear(&r->up_bytes);
	r->up_scanned = 0;
	return true;
}

static bool
conn_relay_cut(struct conn *c, const char *code)
{
	text_copy(c->req->code, sizeof c->req->code, code);
	return conn_close(c, true);
}

/* Acts on the result of pumping the request's body. True: the conn goes on relaying. */
static bool
conn_relay_up(struct conn *c, enum flow_io io)
{
	static const struct filter_fault malformed = {400, "bad_request", "malformed body", ""};
	struct req *r = c->req;
	const struct filter_fault *why = r->up_flow.filter != NULL ? r->up_flow.filter->fault : NULL;

	if (io == FLOW_WAIT || io == FLOW_TURN)
		return true;
	if (io == FLOW_SRC_GONE || io == FLOW_DONE)     /* does the client still wait for the answer? */
		return (io == FLOW_DONE && !conn_client_gone(c)) || conn_relay_cut(c, "client_closed");
	if (io == FLOW_DST_GONE)        /* it answered before it closed: that is read to its end */
		return r->answer_begun || r->answer_held || conn_upstream_gone(c, 502, "closed the connection");
	if (r->answer_begun)            /* FLOW_BAD, as below */
		return conn_relay_cut(c, r->action == REQ_REPLY ? "rule_denied" : "bad_request");
	if (r->action == REQ_REPLY)     /* a rule that read it refused it (lua/reading.lua) */
		return conn_begin_answer(c);
	/* A part of the body was sent, which is no whole request: conn_begin_answer closes the upstream. */
	if (why == NULL)
		why = &malformed;
	r->close_after = r->close_after || why == &malformed;
	return conn_fault(c, why);
}

static bool
conn_step_relay(struct conn *c)
{
	struct req *r = c->req;
	uint64_t before = r->up->peer.received + c->peer.received + r->up_flow.moved;
	enum flow_io up = conn_pump(c, &r->up_flow), down = FLOW_WAIT;
	unsigned heads = 0;

	if (!r->body_read)
		r->bytes_up = r->up_flow.moved;
	while (!r->answer_begun && !r->answer_held && conn_read_answer(c))
		if (++heads == CONN_STEPS) {
			loop_defer(&c->defer, conn_turn); /* an upstream may say 1xx without end */
			break;
		}
	if (c->state == CONN_RELAY && r->answer_held && !r->answer_begun)
		conn_gather_answer(c, NULL);
	if (c->state != CONN_RELAY)
		return true;
	if (r->answer_begun) {
		down = conn_pump_back(c, &r->down_flow);
		r->bytes_down = r->down_flow.moved;
	} else if (peer_flush(&c->peer) == IO_ERR) {
		down = FLOW_DST_GONE;
	}
	if (down == FLOW_DONE) {
		upstream_release(r->up, r->up_flow.done && r->up_keep && r->down_flow.mode != BODY_EOF);
		r->up = NULL;
		conn_next_request(c);
		return c->state != CONN_CLOSED;
	}
	if (down == FLOW_BAD && r->down_flow.filter != NULL && r->down_flow.filter->fault != NULL)
		return conn_relay_cut(c, r->down_flow.filter->fault->code);
	if (down != FLOW_WAIT)
		return conn_relay_cut(c, down == FLOW_DST_GONE ? "client_closed" : "upstream_unreachable");
	if (!conn_relay_up(c, up))
		return c->state != CONN_CLOSED;
	if (r->up->peer.received + c->peer.received + r->up_flow.moved != before)
		conn_deadline(c, req_patience(r, up == FLOW_DONE));
	return false;
}

/* -- CONN_BLIND */

/* One end is gone: no more bytes are taken, and those that wait for the client still go out. */
static bool
blind_cut(struct conn *c)
{
	struct req *r = c->req;

	r->up_flow.done = r->up_flow.shut = r->down_flow.done = true;
	conn_deadline(c, CONN_IDLE_MS);
	return true;
}

/* Pumps one direction. When its source has ended and all bytes are sent, its destination is half-closed: but in TLS,
 * whose close_notify ends both directions here, for a stream, whose client still waits for a WebSocket's Close. Nor where
 * the source was cut: a stream is reset then (RFC 8441 5). True: one end is gone. */
static bool
blind_pump(struct conn *c, struct flow *f)
{
	enum flow_io io = f->shut ? FLOW_WAIT : conn_pump_back(c, f);
	bool open = !f->end || (f->src->stream != NULL && f->dst->tls != NULL);

	if (io == FLOW_BAD && f->filter != NULL && f->filter->fault != NULL)
		text_copy(c->req->code, sizeof c->req->code, f->filter->fault->code);
	if (io != FLOW_DONE)
		return io != FLOW_WAIT && blind_cut(c);
	if (f->dst->tls != NULL && !open)
		tls_shutdown(f->dst->tls);
	f->dst->shut = !open;
	if (peer_flush(f->dst) == IO_OK) {
		if (!open)
			shutdown(f->dst->watch.fd, SHUT_WR);
		f->shut = true;
	}
	return false;
}

/* What the ClientHello in r->up_bytes is, as lua/hello.lua has it: a state of r->hello. Sets r->host to the name in it. */
static int
req_judge_hello(struct req *r)
{
	static struct buf b = {.max = 1 + sizeof r->host};

	if (!lua_ask(ENTRY_HELLO, r->host, 0, buf_slice(&r->up_bytes), &b) || b.n == 0)
		return HELLO_REFUSE;
	slice_cstr((struct slice){b.p + 1, b.n - 1}, r->host, sizeof r->host);  /* where it names none, all stays */
	return b.p[0] - '0';
}

/* No byte of a tunnel goes on before its ClientHello, which may come in pieces, has named the host.
 * False: the tunnel waits for more, or is over. */
static bool
blind_hello(struct conn *c)
{
	struct req *r = c->req;

	while (r->hello == HELLO_MORE) {
		enum io io = peer_flush(&c->peer) == IO_ERR ? IO_ERR : peer_fill(&c->peer);
		struct slice in;

		if (io != IO_OK)
			return io != IO_AGAIN && conn_close(c, false);
		in = peer_data(&c->peer);
		r->hello = buf_add(&r->up_bytes, in.p, in.n) ? req_judge_hello(r) : HELLO_REFUSE;
		peer_consume(&c->peer, in.n);
	}
	if (r->hello == HELLO_PASS && peer_put(&r->up->peer, r->up_bytes.p, r->up_bytes.n)) {
		r->hello = HELLO_ANY;
		r->up_flow.moved = r->up_bytes.n;
		conn_deadline(c, r->idle_ms);
		return true;
	}
	r->allowed = false;
	r->status = 421;
	text_copy(r->code, sizeof r->code, "misdirected");
	peer_put(&c->peer, "\25\3\1\0\2\2\160", 7); /* fatal, unrecognized_name (RFC 6066 3) */
	r->hello = HELLO_ANY;
	return blind_cut(c);
}

static bool
conn_step_blind(struct conn *c)
{
	struct req *r = c->req;
	size_t pending;
	bool cut;

	if (r->hello != HELLO_ANY && !blind_hello(c))
		return false;
	pending = peer_pending(&c->peer) + peer_pending(&r->up->peer);
	cut = blind_pump(c, &r->up_flow);
	cut = blind_pump(c, &r->down_flow) || cut;
	if (r->bytes_up + r->bytes_down != r->up_flow.moved + r->down_flow.moved ||
	    peer_pending(&c->peer) + peer_pending(&r->up->peer) < pending)
		conn_deadline(c, r->idle_ms);
	r->bytes_up = r->up_flow.moved;
	r->bytes_down = r->down_flow.moved;
	if (c->peer.failed || (r->up_flow.shut && r->down_flow.shut))
		return conn_close(c, false);
	return cut;
}

/* -- CONN_SNIFF, CONN_HANDSHAKE, CONN_ANSWER, CONN_LINGER */

/* Do these bytes begin like a request line, as far as they go? SSH's greeting does not. */
static bool
sniff_is_http(struct slice in)
{
	for (size_t i = 0; i < in.n && i <= HTTP_METHOD_MAX; i++) {
		if (in.p[i] == ' ')
			return i != 0;
		if ((in.p[i] < 'A' || in.p[i] > 'Z') && in.p[i] != '-')
			return false;
	}
	return in.n <= HTTP_METHOD_MAX;
}

static bool
conn_step_sniff(struct conn *c)
{
	struct slice in;
	enum io io;

	if (c->at->captures && !c->tunnel)
		return door_step_name(c);
	if (peer_flush(&c->peer) == IO_ERR)
		return conn_close(c, true);
	if ((io = peer_fill(&c->peer)) != IO_OK)
		return io != IO_AGAIN && conn_close(c, false);
	in = peer_data(&c->peer);
	if ((unsigned char)in.p[0] == 0x16) {   /* a handshake record (RFC 5246 6.2.1) */
		c->secure = true;
		if (c->peer.in != NULL)         /* the CONNECT and its token were in the same read */
			wipe(c->peer.in->p, c->peer.in->off);
		if ((c->peer.tls != NULL && !under_begin(&c->peer)) || (c->peer.tls = tls_accept(slice_of(c->host), NULL)) == NULL)
			return conn_close(c, true);
		/* Over HTTP/2 libcurl 7.84 to 8.1 (Debian 12) may ask for more behind the end of a body: git before 2.44 waits for ever. */
		if (H2_BUILT && !c->is_git)
			tls_offer_h2(c->peer.tls);
		c->state = CONN_HANDSHAKE;
	} else if (sniff_is_http(in)) { /* Node's fetch tunnels http:// this way */
		c->state = CONN_HEAD;
	} else {
		reqlog_note(c, "client_tls", "not_tls");  /* SSH, say: a tunnel entry would let it through */
		return conn_close(c, false);
	}
	return true;
}

static bool
conn_step_handshake(struct conn *c)
{
	enum io io = peer_handshake(&c->peer);

	if (io == IO_AGAIN)
		return false;
	if (io != IO_OK) {
		reqlog_note(c, "client_tls", tls_status(c->peer.tls) == TLS_FAILED ?
		    tls_why(c->peer.tls) : "closed");
		return conn_close(c, false);
	}
	c->state = tls_is_h2(c->peer.tls) ? CONN_H2 : CONN_HEAD;
	conn_deadline(c, c->tunnel ? CONN_IDLE_MS : CONN_HEAD_UNKNOWN_MS);
	return true;
}

static bool
conn_step_answer(struct conn *c)
{
	struct flow *f = &c->req->down_flow;
	uint64_t before = f->moved;
	enum flow_io io = conn_pump(c, f);

	if (io == FLOW_DONE && peer_pending(&c->peer) == 0) {
		conn_next_request(c);
		return true;
	}
	if (io != FLOW_DONE && io != FLOW_WAIT)
		return conn_close(c, true);
	if (f->moved != before)
		conn_deadline(c, CONN_IDLE_MS);
	return false;
}

/* Reads on after the last answer (see conn_linger), within bounds, and drops the bytes. */
static bool
conn_step_linger(struct conn *c)
{
	size_t before = peer_pending(&c->peer);
	enum io io = peer_flush(&c->peer);

	if (io == IO_ERR)
		return conn_close(c, true);
	if (io == IO_OK && c->lingered == 0) {
		shutdown(c->peer.watch.fd, SHUT_WR);
		c->lingered = 1;
		conn_deadline(c, CONN_LINGER_MS);
	} else if (io == IO_AGAIN && peer_pending(&c->peer) < before) {
		conn_deadline(c, CONN_IDLE_MS);
	}
	/* Off the wire: what is thrown away need not be decrypted. */
	for (uint64_t from = c->lingered; c->lingered - from < FLOW_TURN_MAX;) {
		if ((io = peer_read_wire(&c->peer)) == IO_AGAIN)
			return false;
		if (io != IO_OK)
			return (peer_pending(&c->peer) == 0 || c->peer.failed) && conn_close(c, false);
		c->lingered += c->peer.in->n;
		wirebuf_put(&c->peer.in, c->peer.tls == NULL);
		if (c->lingered > (c->agent != NULL ? CONN_LINGER_AGENT_MAX : CONN_LINGER_MAX))
			return conn_close(c, false);
		if (c->agent != NULL && peer_pending(&c->peer) == 0)
			conn_deadline(c, CONN_LINGER_MS);
	}
	loop_defer(&c->defer, conn_turn);
	return false;
}

/* -- expired deadlines, and the state machine */

/* The deadline has passed. */
static void
conn_expire(struct conn *c)
{
	struct req *r = c->req;
	int was = c->unsent, up = 0, down = 0;
	bool client = peer_pending(&c->peer) != 0;

	if (c->state == CONN_RELAY) {   /* no byte has moved for too long */
		/* Was it the client? It does not read, or owes a body. */
		client = client || (!req_body_consumed(r) && peer_pending(&r->up->peer) == 0);
		/* One that reads a few bytes at a time empties the kernel's queue long before there is an event. */
		ioctl(c->peer.watch.fd, TIOCOUTQ, &down);
		ioctl(r->up->peer.watch.fd, TIOCOUTQ, &up);
		c->unsent = up + down;
		if (c->unsent != was)
			conn_deadline(c, req_patience(r, req_body_consumed(r)));
		else if (r->answer_begun)
			conn_relay_cut(c, client ? "client_timeout" : "upstream_timeout");
		else if (client)
			conn_fail(c, 408, "client_timeout", "the request's body stopped coming");
		else
			conn_upstream_gone(c, 504, "did not answer in time");
	} else if (c->state == CONN_DECIDE && (c->closing || req_busy(r))) {
		conn_close(c, true);
	} else if (c->state == CONN_DECIDE) {
		r->close_after = true;
		req_stop(r);
		if (r->body_reading)
			conn_fail(c, 408, "client_timeout", "the request's body stopped coming");
		else
			conn_fail(c, 503, "injection_unavailable", "the decision took too long");
	} else if (c->state == CONN_DIAL) {
		if (r->up != NULL)
			conn_fail(c, 504, "upstream_timeout", "the upstream did not open in time");
	} else if (c->state == CONN_H2) {
		c->last = true;
	} else {                /* in all other states it ends the connection */
		if (c->state == CONN_HEAD)
			conn_drop_req(c);
		else if (c->state == CONN_SNIFF || c->state == CONN_HANDSHAKE)
			reqlog_note(c, "client_tls", "timeout");
		else if (r != NULL && r->code[0] == '\0')       /* CONN_ANSWER, CONN_BLIND */
			text_copy(r->code, sizeof r->code, client ? "client_timeout" : "idle_timeout");
		conn_close(c, false);
		return;
	}
	conn_advance(c);
}

static bool (*const conn_steps[])(struct conn *) = {
	[CONN_HEAD] = conn_step_head, [CONN_DECIDE] = conn_step_decide, [CONN_DIAL] = conn_step_dial,
	[CONN_RELAY] = conn_step_relay, [CONN_ANSWER] = conn_step_answer, [CONN_SNIFF] = conn_step_sniff,
	[CONN_HANDSHAKE] = conn_step_handshake, [CONN_BLIND] = conn_step_blind, [CONN_H2] = h2_step, [CONN_LINGER] = conn_step_linger,
};
_Static_assert(COUNT(conn_steps) == CONN_CLOSED, "each state but the last has a step");

/* Runs the step of the present state until a step answers false: it waits for an event. */
static void
conn_advance(struct conn *c)
{
	unsigned steps = 0;
	bool more = true;

	if (c->advancing) {
		c->again = true;
		return;
	}
	c->advancing = true;
	while (more || c->again) {
		c->again = false;
		if (c->state != CONN_CLOSED && ++steps > CONN_STEPS) {
			loop_defer(&c->defer, conn_turn); /* pipelined requests must not keep the others waiting */
			break;
		}
		more = c->state != CONN_CLOSED && conn_steps[c->state](c);
	}
	c->advancing = false;
}

/* Closes idle connections now, and every other one after its present request. */
static void
conn_drain(void)
{
	conn_draining = true;
	for (struct conn *c = LIST_FIRST(&conn_list), *next; c != NULL; c = next) {
		next = LIST_NEXT(c, link);
		if (c->state == CONN_HEAD && c->req == NULL && c->peer.out == NULL && c->peer.stream == NULL)
			conn_close(c, false);
		else if (c->state == CONN_H2)
			loop_defer(&c->defer, conn_turn);       /* it tells its client */
	}
}

/* ---- main ------------------------------------------------------------------
 * A command is one process: it runs cli.main as a task and ends. `serve` closes its Lua state and
 * becomes the master (lua/cli/master.lua, in a state of its own), which opens no store and speaks to
 * nobody: it forks workers, replaces those that die, and kills one whose heart stopped. */
#define MASTER_WORKERS_MAX 64
#define MASTER_BEAT_MS 250      /* how often a worker says that it lives */
#define MASTER_DRAIN_MS 30000
#define WORKER_EXIT_START 3     /* could not start: another one could not either */
#define MEMORY_MAX ((uint64_t)512 << 20)
#define DOOR_NICE 5

/* The heartbeat of a worker, in memory that it shares with the master: lua/cli/master.lua and
 * lua/metrics.lua read it as it lies there. */
struct beat {
	volatile int64_t at;    /* CLOCK_MONOTONIC ms */
	_Atomic uint64_t conns, memory; /* its connections, bytes of its heap */
	volatile int ready;
	char policy[LUA_NAME_MAX]; /* the policy that runs: named when the worker is killed */
	_Atomic uint64_t newest; /* of the one behind the last process's: table_newest */
};

static struct {
	bool wanted;
	char home[PATH_MAX];
	char *overrides;        /* JSON, for worker.start; both are owned, for ever */
	char *with;             /* JSON, for cli.master */
	unsigned workers;       /* all of them; the last `doors` serve the door */
	unsigned doors;
	int worker;             /* which one this process is; negative: none */
	pid_t master;
} serve = {.worker = -1};

static struct beat *master_beats;       /* shared */

/* What people at the door tried, counted by all workers, past the death of one: the window in the upper
 * half, the count in the lower (lua/web/sessions.lua). Pages that nobody touches take no memory. */
#define WORKER_TALLIES (1u << 18)
static _Atomic uint32_t worker_own_tally[WORKER_TALLIES];      /* of a process that has no master */
static _Atomic uint32_t *worker_tally = worker_own_tally;      /* shared */

static bool worker_stop;

/* -- a task that the process waits for: a command, or a worker's start */
struct call {
	int argc;
	char **argv;            /* borrowed; what is given begins at argv[1] */
	bool done;
	int code;
};

static int
call_push(lua_State *co, void *arg)
{
	const struct call *c = arg;

	lua_createtable(co, c->argc, 0);
	for (int i = 1; i < c->argc; i++) {
		lua_pushstring(co, c->argv[i]);
		lua_rawseti(co, -2, i);
	}
	return 1;
}

static void
call_done(struct task *t, bool ok, lua_State *co)
{
	struct call *c = t->owner;

	c->done = true;
	c->code = !ok ? 1 : lua_isinteger(co, 1) ? (int)lua_tointeger(co, 1) : 0;
	if (!ok && lua_worker)
		log_line("ev=worker_start err=\"%.300s\"", l_message(co));
	else if (!ok)
		fprintf(stderr, "sallyport: %s\n", l_message(co));
}

/* Runs module.fn({argv[1], …}) as a task, and the loop until the task has ended. Returns the exit code:
 * the function's result, or 1 where it failed. */
static int
call_run(const char *module, const char *fn, int argc, char **argv)
{
	struct call c = {.argc = argc, .argv = argv};
	int ref = lua_import(module, fn);
	struct task *task = ref != LUA_NOREF ? task_new(ref, call_push, &c, &c, call_done) : NULL;

	if (task == NULL)
		return 1;
	task_run(task);
	if (!c.done)
		loop_run(&c.done);
	return c.code;
}

/* -- worker */
#define HEAP_BURST 32           /* connections; fewer are not worth a look at the whole heap */

static int worker_tick_ref = LUA_NOREF;
static struct timer worker_beat_timer, worker_tick_timer, worker_drain_timer;
static struct beat *worker_beat;
static int64_t worker_drain_until, worker_readers_at;
static size_t worker_conns;             /* the most at once, of late */
static struct watch worker_signals = {.fd = -1};

static void
worker_on_beat(struct timer *t)
{
	worker_beat->at = clock_read(CLOCK_MONOTONIC);
	timer_set(t, clock_now() + MASTER_BEAT_MS, worker_on_beat);
}

static void
worker_on_tick(struct timer *t)
{
	struct task *task = task_new(worker_tick_ref, NULL, NULL, NULL, NULL);
	bool more;

	if (task != NULL)
		task_run(task);
	worker_beat->conns = conn_count;
	worker_beat->memory = mallinfo2().uordblks + mallinfo2().hblkhd;
	more = conn_rejudge();
	bufs_trim();
	/* The C library keeps what is freed below its last block: half heads of a thousand connections,
	 * say. When most of them have gone, that goes back to the kernel. */
	if (conn_count >= worker_conns) {
		worker_conns = conn_count;
	} else if (conn_count + HEAP_BURST < worker_conns / 2) {
		malloc_trim(0);
		worker_conns = conn_count;
	}
	if (clock_now() >= worker_readers_at) {
		reqlog_flush(NULL);     /* the writer looks whether its file is still the one */
		store_check_readers();
		worker_readers_at = clock_now() + 60000;
	}
	timer_set(t, clock_now() + (more ? 20 : 500), worker_on_tick);
}

static void
worker_on_drain(struct timer *t)
{
	if ((conn_count == 0 && spawn_running == 0) || clock_now() >= worker_drain_until)
		worker_stop = true;
	else
		timer_set(t, clock_now() + 20, worker_on_drain);
}

static void
worker_on_signal(struct watch *w)
{
	struct signalfd_siginfo info;
	bool drain = false;

	while (read(w->fd, &info, sizeof info) == (ssize_t)sizeof info)
		drain |= info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT;
	w->readable = false;
	if (!drain || conn_draining)
		return;
	for (size_t i = 0; i < net.nlisteners; i++)
		watch_close(&net.listeners[i].watch);
	conn_drain();
	worker_drain_until = clock_now() + MASTER_DRAIN_MS;
	worker_on_drain(&worker_drain_timer);
}

static bool
worker_open(void)
{
	uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 4;

	if (!store_open_serve(serve.home))
		return false;
	host_workers = net.kind == LISTEN_GATEWAY ? serve.doors : serve.workers - serve.doors;
	conn_bound(memory < MEMORY_MAX ? memory : MEMORY_MAX);
	if (lua_open_state(true) == NULL || !req_import())
		return false;
	worker_tick_ref = lua_import("worker", "tick");
	if (worker_tick_ref == LUA_NOREF || call_run("worker", "start", 2, (char *[]){NULL, serve.overrides}) != 0)
		return false;
	embed_forget();
	return true;
}

/* Runs in the child; never returns. */
__attribute__((noreturn)) static void
worker_main(unsigned index)
{
	sigset_t set;

	prctl(PR_SET_PDEATHSIG, SIGTERM);       /* the master's death drains us */
	if (getppid() != serve.master)
		_exit(0);
	if (index >= serve.workers - serve.doors) {
		net.kind = LISTEN_GATEWAY;
		setpriority(PRIO_PROCESS, 0, DOOR_NICE);        /* agents' work goes before the world's */
	}
	worker_beat = &master_beats[index];
	lua_running_slot = worker_beat->policy;
	loop_time = 0;
	if (!secret_init() || !loop_init(true) || !tls_worker_init())
		_exit(WORKER_EXIT_START);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);                /* a terminal that goes away is the master's affair */
	sigprocmask(SIG_SETMASK, &set, NULL);
	worker_signals = (struct watch){.fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), .ready = worker_on_signal};
	watch_add(&worker_signals, EPOLLIN);
	worker_on_beat(&worker_beat_timer);
	if (!worker_open())
		_exit(WORKER_EXIT_START);
	for (size_t i = 0; i < net.nlisteners; i++) {
		net.listeners[i].watch.ready = conn_accept;
		if (net.listeners[i].kind == net.kind && !watch_add(&net.listeners[i].watch, EPOLLIN | EPOLLEXCLUSIVE))
			_exit(WORKER_EXIT_START);
	}
	worker_on_tick(&worker_tick_timer);
	worker_beat->ready = 1;
	loop_run(&worker_stop);
	reqlog_drain();
	store_close();
	_exit(0);
}

/* The master, which a signal ends; the children that cli.master forks as workers leave its task too. */
static int
master_main(void)
{
	int code;

	serve.master = getpid();
	master_beats = mmap(NULL, sizeof(struct beat) * (serve.workers + 1), PROT_READ | PROT_WRITE,
	    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	worker_tally = mmap(NULL, sizeof worker_own_tally, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (master_beats == MAP_FAILED || worker_tally == MAP_FAILED || !tls_init() || !scrub_init() || !count_init() ||
	    lua_open_state(false) == NULL)
		return 1;
	table_newest = &master_beats[serve.workers].newest;
	code = call_run("cli.master", "run", 2, (char *[]){NULL, serve.with});
	lua_close_state();
	if (serve.worker >= 0)
		worker_main((unsigned)serve.worker);
	return code;
}

/* ==== Part II: organs =======================================================
 * Bytes in, an answer out. Only `agent` knows a connection, and only the process of `reqlog`
 * runs Lua. Each banner says what the section is for and what a reader may skip it for.
 */

/* ---- addr ------------------------------------------------------------------
 * IP addresses as bytes, and the guard that says which of them an agent's request may be sent to.
 * One table decides, lua/guarded.lua. Exceptions (--address, --allow-address, --connect-to) are the caller's, which
 * asks for them first.
 *
 * Invariants. An address that no row of the table settles is refused. IPv4 inside IPv6 is judged as
 * IPv4. Only addr_own_read asks the system. Skip it if you trust that no request reaches a private
 * address unless the operator allowed it; the table says which addresses those are. */

/* Dotted quad without leading zeros, or RFC 4291 2.2 text: both as inet_pton reads them. No zone,
 * no brackets, and none of the forms that only inet_aton knows. */
static bool
addr_parse(struct slice in, struct addr *out)
{
	char text[ADDR_TEXT_MAX];

	*out = (struct addr){.v4 = in.n == 0 || memchr(in.p, ':', in.n) == NULL};
	return slice_cstr(in, text, sizeof text) && inet_pton(out->v4 ? AF_INET : AF_INET6, text, out->b) == 1;
}

/* What getaddrinfo takes for an address though no RFC does: 127.1, 0x7f.1, 0177.0.0.1,
 * 2130706433. One trailing dot is ignored, as in a name. strspn comes before inet_aton, which would
 * stop at white space and take what stands before it. */
static bool
addr_parse_legacy(struct slice in, struct addr *out)
{
	struct in_addr a;
	char text[256];

	in.n -= in.n != 0 && in.p[in.n - 1] == '.';
	*out = (struct addr){.v4 = true};
	if (!slice_cstr(in, text, sizeof text) || strspn(text, "0123456789abcdefABCDEFxX.") != in.n ||
	    inet_aton(text, &a) == 0)
		return false;
	memcpy(out->b, &a, sizeof a);
	return true;
}

/* The address in `sa`. False: `sa` is of another family. */
static bool
addr_of_socket(const struct sockaddr *sa, struct addr *a)
{
	*a = (struct addr){.v4 = sa->sa_family == AF_INET};
	if (a->v4)
		memcpy(a->b, &((const struct sockaddr_in *)sa)->sin_addr, 4);
	else if (sa->sa_family == AF_INET6)
		memcpy(a->b, &((const struct sockaddr_in6 *)sa)->sin6_addr, 16);
	return a->v4 || sa->sa_family == AF_INET6;
}

/* RFC 5952, which is what inet_ntop writes; an IPv4 address is written here, as inet_ntop takes 2,000
 * instructions for it and each record has one. Returns the length without the NUL. */
static size_t
addr_format(const struct addr *a, char out[ADDR_TEXT_MAX])
{
	char *p = out;

	for (unsigned i = 0; i < 4 && a->v4; i++) {
		if (a->b[i] > 99)
			*p++ = (char)('0' + a->b[i] / 100);
		if (a->b[i] > 9)
			*p++ = (char)('0' + a->b[i] / 10 % 10);
		*p++ = (char)('0' + a->b[i] % 10);
		*p++ = i < 3 ? '.' : '\0';
	}
	if (!a->v4 && inet_ntop(AF_INET6, a->b, out, ADDR_TEXT_MAX) == NULL)
		out[0] = '\0';  /* cannot be: the room suffices */
	return strlen(out);
}

static bool
addr_in_prefix(const uint8_t *a, const uint8_t *prefix, unsigned bits)
{
	unsigned whole = bits / 8, rest = bits % 8;

	return memcmp(a, prefix, whole) == 0 &&
	    (rest == 0 || (a[whole] ^ prefix[whole]) >> (8 - rest) == 0);
}

/* "10.0.0.0/8", "fd00::/8", or an address alone. A bit behind the prefix is an error: 10.0.0.1/8
 * is more likely a slip than a wish to open all of 10/8. */
static bool
cidr_parse(struct slice in, struct cidr *out)
{
	size_t n = in.n;
	struct slice text = slice_cut(&in, '/');
	uint64_t bits, max;

	*out = (struct cidr){.bits = 0};
	if (!addr_parse(text, &out->a))
		return false;
	bits = max = out->a.v4 ? 32 : 128;
	if (text.n != n && (!slice_number(in, max, &bits) || (in.n > 1 && in.p[0] == '0')))
		return false;
	out->bits = (uint8_t)bits;
	for (uint64_t i = bits; i < max; i++)
		if ((out->a.b[i / 8] & 0x80u >> i % 8) != 0)
			return false;
	return true;
}

/* The IPv4 address in an IPv4-mapped one (RFC 4291 2.5.5.2), since Linux dials that over IPv4. Any
 * other address is returned as it is. */
static struct addr
addr_unmapped(const struct addr *a)
{
	static const uint8_t prefix[12] = {[10] = 0xff, [11] = 0xff};
	struct addr inner = {.v4 = true};

	if (a->v4 || memcmp(a->b, prefix, sizeof prefix) != 0)
		return *a;
	memcpy(inner.b, a->b + 12, 4);
	return inner;
}

/* An IPv4-mapped address counts as IPv4: ::ffff:10.0.0.1 is in 10.0.0.0/8, and in no IPv6 range
 * with a prefix of under 96 bits, since ::/0 says "IPv6", not "and all of IPv4". */
static bool
cidr_contains(const struct cidr *c, const struct addr *a)
{
	struct addr inner = addr_unmapped(a);

	if (c->a.v4 || c->bits < 96)
		a = &inner;
	return a->v4 == c->a.v4 && addr_in_prefix(a->b, c->a.b, c->bits);
}

/* The guard's rows are data: lua/guarded.lua, which tells where they are from. l_read_guard reads them
 * before anything is dialled; without them every address is refused. The first row that holds the
 * address and settles it decides; one with `at` settles only when the IPv4 address found at that byte
 * is refused. An address that no row settles is refused. */
#define GUARD_ROWS_MAX 96

static struct guard_row {
	struct cidr range;
	char why[64];           /* it is refused; empty: it passes, but for `at` */
	uint8_t at;             /* not 0: where the IPv4 address begins that is judged … */
	bool turned;            /* … with all bits turned */
} addr_guard_rows[GUARD_ROWS_MAX];
static size_t addr_guard_n;

/* This machine's own addresses, and the IPv6 networks that it stands in: global unicast, and as
 * near as a private address. They change while the process runs. */
#define ADDR_OWN_MS 1000        /* a list older than this is read again */
#define ADDR_OWN_MAX 1024       /* a machine full of containers */

static struct { struct cidr range[ADDR_OWN_MAX]; size_t n; int64_t until; } addr_own;

static void
addr_own_read(void)
{
	struct ifaddrs *all;

	addr_own.until = clock_now() + ADDR_OWN_MS;
	if (getifaddrs(&all) != 0)
		return;                 /* what was known stays */
	addr_own.n = 0;
	for (struct ifaddrs *i = all; i != NULL && addr_own.n < ADDR_OWN_MAX; i = i->ifa_next) {
		const struct sockaddr_in6 *mask = (void *)i->ifa_netmask;
		struct cidr *c = &addr_own.range[addr_own.n];

		if (i->ifa_addr == NULL || !addr_of_socket(i->ifa_addr, &c->a))
			continue;
		c->bits = c->a.v4 ? 32 : 0;
		for (size_t k = 0; !c->a.v4 && k < 8; k++) /* neighbours share 64 bits (RFC 4291 2.5.4), or fewer */
			c->bits += mask == NULL ? 8 : (uint8_t)__builtin_popcount(mask->sin6_addr.s6_addr[k]);
		addr_own.n++;
	}
	freeifaddrs(all);
}

/* NULL: globally reachable unicast; else why not, a static phrase. */
static const char *
addr_guard(const struct addr *a)
{
	for (const struct guard_row *row = addr_guard_rows; row < addr_guard_rows + addr_guard_n; row++) {
		const struct cidr *range = &row->range;
		struct addr inner = {.v4 = true};
		const char *why = row->why[0] != '\0' ? row->why : NULL;

		if (range->a.v4 != a->v4 || !addr_in_prefix(a->b, range->a.b, range->bits))
			continue;
		if (why == NULL && row->at == 0) {
			if (clock_now() >= addr_own.until)
				addr_own_read();
			for (range = addr_own.range; range < addr_own.range + addr_own.n; range++)
				if (cidr_contains(range, a))
					return range->a.v4 ? "this machine's own address" : "this machine's own network";
			return NULL;
		}
		for (size_t k = 0; row->at != 0 && k < 4; k++)
			inner.b[k] = a->b[row->at + k] ^ (row->turned ? 0xff : 0);
		if (why != NULL || (why = addr_guard(&inner)) != NULL)  /* one level deep: inner is IPv4 */
			return why;
	}
	return "not global unicast (RFC 4291 2.4)";
}

/* ---- codec -----------------------------------------------------------------
 * Base64 and hexadecimal (RFC 4648), reading; `util` writes them. Base64 is strict: of the
 * spellings of the same bytes only the canonical one is read. Hexadecimal is read in either case.
 * Skip it unless you doubt a bound. */

/* The digit's value; -1: `c` is no digit. */
static int
hex_digit(char c)
{
	if (ascii_digit(c))
		return c - '0';
	c = ascii_lower(c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* in.n / 2 bytes to `out`. False: half a byte, or a character that is no digit. */
static bool
hex_decode(void *out, struct slice in)
{
	uint8_t *b = out;

	if (in.n % 2 != 0)
		return false;
	for (size_t i = 0; i < in.n; i += 2) {
		int hi = hex_digit(in.p[i]), lo = hex_digit(in.p[i + 1]);

		if (hi < 0 || lo < 0)
			return false;
		b[i / 2] = (uint8_t)(hi << 4 | lo);
	}
	return true;
}

/* The number of a digit of either alphabet; of another character, that of some digit: the caller compares. A table, because
 * comparisons cost a mispredicted branch for each digit. */
static unsigned
b64_digit(char c)
{
	static const uint8_t digit[] = {
	    62, 0, 62, 0, 63, 52, 53, 54, 55, 56, 57, 58, 59, 60, 61, ['A' - '+'] = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
	    13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, ['_' - '+'] = 63, ['a' - '+'] = 26, 27, 28, 29, 30, 31, 32, 33, 34,
	    35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51};
	uint8_t i = (uint8_t)(c - '+');

	return i < sizeof digit ? digit[i] : 0;
}

/* RFC 4648 3.2 to 3.5, strict: no white space, canonical padding (none with `url`), zero pad bits.
 * `out` may be in.p. Returns the bytes written; -1: malformed, or more than `cap` bytes. */
static ssize_t
b64_decode(void *out, size_t cap, struct slice in, bool url)
{
	const char *abc = url ? b64_url : b64_std;
	uint8_t *b = out;
	size_t o = 0, n = in.n;
	uint32_t v = 0;
	unsigned bits = 0;

	if (!url) {
		if (n % 4 != 0)
			return -1;
		for (int i = 0; i < 2 && n != 0 && in.p[n - 1] == '='; i++)
			n--;
	}
	if (n % 4 == 1)
		return -1;
	for (size_t i = 0; i < n; i++) {
		unsigned d = b64_digit(in.p[i]);

		if (abc[d] != in.p[i])
			return -1;
		v = v << 6 | d;
		bits += 6;
		if (bits >= 8) {
			if (o == cap)
				return -1;
			bits -= 8;
			b[o++] = (uint8_t)(v >> bits);
			v &= (1u << bits) - 1;
		}
	}
	return v == 0 ? (ssize_t)o : -1;
}

/* ---- field -----------------------------------------------------------------
 * What becomes of a header field, whoever sends it: the look-up that gives each parsed field its rule
 * (HDR_*, in `http`), by the table in lua/fields.lua. Case is ignored, and "_" equals "-", because CGI
 * makes one variable of both (RFC 3875 4.1.18). The first row that fits decides; a field without a row
 * passes. Read the table; skip the look-up. */

/* "*" at the end of a name stands for any rest. */
static bool
http_rule_fits(const char *row, struct slice name)
{
	size_t k = 0;

	while (k < name.n && row[k] != '*' && row[k] > ' ' &&
	    (row[k] == ascii_lower(name.p[k]) || (row[k] == '-' && name.p[k] == '_')))
		k++;
	return row[k] == '*' || (row[k] <= ' ' && k == name.n);
}

/* The chain of the names that may fit `name`: from its first letter and its third, because half of
 * the names begin with "x-". "_" equals "-" here too. */
static size_t
http_rule_chain(const char *name, size_t n)
{
	char third = n > 2 ? name[2] : '\0';

	return (size_t)(name[0] & 31) << 5 | (size_t)((third == '_' ? '-' : third) & 31);
}

/* What l_read_fields read. A space ends a name. */
static struct { const char *name; uint16_t rule; uint8_t next; } hdr_names[256];        /* from 1 on; next 0: none */
static uint8_t hdr_chains[1024];        /* by http_rule_chain, in the table's order */

/* The rule of the first name that fits; 0: none. Each field of each message is looked up here. */
static uint16_t
http_field_rule(struct slice name)
{
	if (hdr_names[1].name == NULL)
		abort();                /* without the rules no message is read */
	for (uint8_t i = name.n != 0 ? hdr_chains[http_rule_chain(name.p, name.n)] : 0; i != 0; i = hdr_names[i].next)
		if (http_rule_fits(hdr_names[i].name, name))
			return hdr_names[i].rule;
	return 0;
}

/* ---- uri -------------------------------------------------------------------
 * Hosts, percent signs, and pairs of queries and forms. Pure. One reader and one writer with a
 * table of modes: a mode's row names the server or standard that needs it. The ways in which a server
 * may read a path are lua/paths.lua's. Skip it if you trust that both spell bytes alike. */
#define HTTP_HOST_MAX 253               /* RFC 1035 3.1: 255 octets on the wire, so 253 as text */
#define HTTP_LABEL_MAX 63               /* RFC 1035 2.3.4 */

/* -- hosts */

/* Letters, digits, "-" and "_" (in use, though not in RFC 952), in labels of 1 to 63 bytes (RFC
 * 1035 2.3.4). *last: where the last label begins. NULL, or why `in` is no name, a static
 * phrase. */
static const char *
http_canonical_name(struct slice in, char out[HTTP_HOST_MAX + 1], size_t *last)
{
	size_t start = 0;

	for (size_t i = 0; i <= in.n; i++) {
		char c = i < in.n ? ascii_lower(in.p[i]) : '.';

		if (c == '.') {
			if (i == start)
				return "empty label in the host name";
			if (i - start > HTTP_LABEL_MAX)
				return "label of over 63 bytes in the host name";
			*last = start;
			start = i + 1;
		} else if (!ascii_alnum(c) && c != '-' && c != '_') {
			return (unsigned char)c < 0x80 ? "character that no host name has" :
			    "letters outside ASCII: a host name is written in its xn-- form";
		}
		if (i < in.n)
			out[i] = c;
	}
	return NULL;
}

/* The one spelling of a host, as a C string: lower case, one trailing dot off, addresses as RFC
 * 5952 or dotted quad, and what getaddrinfo would take for an address made one. NULL, or why there
 * is none, a static phrase. An IPv6 address has the brackets of RFC 3986 3.2.2 or (as people write it)
 * none. A name with letters outside ASCII is refused: its xn-- form depends on the tables of UTS 46,
 * and a wrong guess would name another host. */
static const char *
http_canonical_host(struct slice in, char out[256], bool *is_ip)
{
	const char *why;
	struct addr a;
	size_t last = 0;
	bool hex;

	*is_ip = in.n != 0 && memchr(in.p, ':', in.n) != NULL;
	if (*is_ip && in.p[0] == '[') {
		if (in.p[in.n - 1] != ']')
			return "bracket without its other half";
		in = (struct slice){in.p + 1, in.n - 2};
	}
	if (*is_ip) {
		if (in.n != 0 && memchr(in.p, '%', in.n) != NULL)
			return "IPv6 zone: it means nothing beyond this machine";
		if (!addr_parse(in, &a) || a.v4)
			return "colon in the host, but no IPv6 address (a port does not belong here)";
		addr_format(&a, out);
		return NULL;
	}
	in.n -= in.n != 0 && in.p[in.n - 1] == '.';
	if (in.n == 0 || in.n > HTTP_HOST_MAX)
		return in.n == 0 ? "empty host name" : "host name of over 253 bytes";
	if ((why = http_canonical_name(in, out, &last)) != NULL)
		return why;
	out[in.n] = '\0';
	/* only digits, or 0x and hexadecimal digits: such a last label makes an address of the whole host,
	 * says the URL standard ("ends in a number"), and so do getaddrinfo and every browser */
	hex = strncmp(out + last, "0x", 2) == 0;
	for (size_t i = last + (hex ? 2 : 0); i < in.n; i++)
		if (hex ? hex_digit(out[i]) < 0 : !ascii_digit(out[i]))
			return NULL;
	*is_ip = true;
	if (!addr_parse_legacy((struct slice){out, in.n}, &a))
		return "ends in a number but is not an IPv4 address";
	addr_format(&a, out);
	return NULL;
}

/* -- percent-encoding (RFC 3986 2.1): one reader and one writer. A row is a habit of servers: what
 * they read or want differently. */
enum pct { PCT_NONE, PCT_URI, PCT_QUERY, PCT_FORM, PCT_SEGMENT, PCT_PATH, PCT_TWICE, PCT_MESSAGE };

static const struct {
	const char *plain;      /* written as it is, besides letters and digits */
	bool plus, puts_plus;   /* "+" is read as a space; a space is written as one */
	bool twice;             /* what was encoded again is read too */
} pct_modes[] = {
	/* a text that nobody decodes */
	[PCT_NONE] = {"", false, false, false},
	/* RFC 3986 2.1, 2.3: nginx, WSGI, CGI. AWS's UriEncode */
	[PCT_URI] = {"-._~", false, false, false},
	/* read as WHATWG URL 5.1 has it; written so that readers of plain RFC 3986 and signers
	 * agree */
	[PCT_QUERY] = {"-._~", true, false, false},
	/* WHATWG URL 5.2, RFC 6749 B: to the letter */
	[PCT_FORM] = {"*-._", true, true, false},
	/* RFC 3986 3.3: what a segment may hold as it is, since some servers compare before they
	 * decode (Telegram's ":"). Not ";", which ends a segment for some */
	[PCT_SEGMENT] = {"-._~:@!$&'()*+,=", false, false, false},
	/* AWS's UriEncode of a path */
	[PCT_PATH] = {"-._~/", false, false, false},
	/* a Location that has an address within an address */
	[PCT_TWICE] = {"-._~", false, false, true},
	/* grpc-message (gRPC's PROTOCOL-HTTP2) */
	[PCT_MESSAGE] = {" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~", false, false, false},
};

/* *out: the byte that is spelled at in.p[i]. Returns the bytes of its spelling, at least 1. A "%"
 * that begins no %XX is itself. */
static size_t
pct_next(struct slice in, size_t i, enum pct mode, char *out)
{
	char c = in.p[i], coded;
	size_t used = 1;

	if (c == '%' && mode != PCT_NONE && in.n - i >= 3 && hex_decode(&coded, (struct slice){in.p + i + 1, 2})) {
		c = coded;
		used = 3;
	} else if (c == '+' && pct_modes[mode].plus) {
		c = ' ';
	}
	if (used == 3 && c == '%' && pct_modes[mode].twice && in.n - i >= 5 &&
	    hex_decode(&coded, (struct slice){in.p + i + 3, 2})) {
		c = coded;
		used = 5;
	}
	*out = c;
	return used;
}

/* Decodes into `out`, which may be in.p, at most `cap` bytes. Returns the bytes written. */
static size_t
pct_decode(char *out, size_t cap, struct slice in, enum pct mode)
{
	size_t n = 0;

	for (size_t i = 0; i < in.n && n < cap;)
		i += pct_next(in, i, mode, &out[n++]);
	return n;
}

static bool
pct_plain(char c, enum pct mode)
{
	return ascii_alnum(c) || (c != '\0' && strchr(pct_modes[mode].plain, c) != NULL);
}

static bool
pct_put(struct buf *b, struct slice in, enum pct mode)
{
	static const char digits[] = "0123456789ABCDEF";  /* RFC 3986 2.1: upper case */
	size_t n;

	for (size_t i = 0; i < in.n; i += n) {
		unsigned char c = (unsigned char)in.p[i];
		char piece[3] = {'%', digits[c >> 4], digits[c & 15]};

		for (n = 0; i + n < in.n && pct_plain(in.p[i + n], mode); n++)
			;
		if (n != 0)
			buf_add(b, in.p + i, n);
		else if (c == ' ' && pct_modes[mode].puts_plus)
			buf_add(b, "+", 1);
		else
			buf_add(b, piece, 3);
		n += n == 0;
	}
	return buf_ok(b);
}

/* Does each "%" begin a %XX? Of one that does not, servers make different things: they keep it,
 * drop it or fail. */
static bool
pct_ok(struct slice in)
{
	char c;

	for (size_t i = 0; i < in.n; i++)
		if (in.p[i] == '%' && pct_next(in, i, PCT_URI, &c) != 3)
			return false;
	return true;
}

/* -- pairs of a query or form */

enum pair_mode { PAIR_AMP, PAIR_INNER, PAIR_EVERY };

static const struct {
	char mark;              /* what parts them */
	bool last;              /* behind a mark at the end there is one more, if an empty one */
} pair_modes[] = {
	[PAIR_AMP] = {'&', false},      /* WHATWG URL 5.1 */
	[PAIR_INNER] = {';', true},     /* HTML 4.01 B.2.2: what Rack 2 and CGI.pm see within one of PAIR_AMP */
	[PAIR_EVERY] = {'&', true},     /* for copies in which every byte stays */
};

/* The "name=value" that begins at *at, which moves behind it. False: no pair is left. */
static bool
pair_next(struct slice in, size_t *at, enum pair_mode mode, struct slice *pair, struct slice *name)
{
	if (*at > in.n || (*at == in.n && !pair_modes[mode].last))
		return false;
	*pair = slice_until((struct slice){in.p + *at, in.n - *at}, pair_modes[mode].mark);
	*name = slice_until(*pair, '=');
	*at += pair->n + 1;
	return true;
}

static struct slice
pair_value(struct slice pair, struct slice name)
{
	size_t skip = name.n + (name.n < pair.n);       /* and the "=" */

	return (struct slice){pair.p + skip, pair.n - skip};
}

/* A name, decoded into `out`: at most `cap` bytes, so that a longer name matches nothing. */
static struct slice
pair_name(struct slice in, char *out, size_t cap)
{
	return (struct slice){out, pct_decode(out, cap, in, PCT_QUERY)};
}

/* -- Basic */

/* Decodes the "user:password" of Basic (RFC 7617 2) into `plain`. False: `value` is of another
 * scheme, or its base64 is malformed or empty. The caller frees `plain` in both cases. */
static bool
http_basic(struct slice value, struct buf *plain)
{
	ssize_t n = -1;

	buf_init(plain, value.n + 1);
	if (value.n > 6 && slice_begins_nocase(value, SLICE("basic ")) && buf_reserve(plain, value.n + 1))
		n = b64_decode(plain->p, plain->cap, (struct slice){value.p + 6, value.n - 6}, false);
	plain->n = n > 0 ? (size_t)n : 0;
	return n > 0;
}

/* ---- trust -----------------------------------------------------------------
 * Certificates: reading and making them, our own authority, roots, what a credential shows and
 * trusts, and the verification of a server's chain. Skip it if you trust that a server's certificate
 * is verified, and that an agent's client accepts ours.
 *
 * Invariants. A certificate is read once (cert_read), and every rule asks what was read. An
 * extension that is malformed, or critical and not known here, ends a path; so does a name
 * constraint that cannot be compared. A chain is verified once all of its certificates have come. A
 * session resumes only for the host (agents) or the host, port, trust and tag (upstreams) that it
 * was made for, which are part of its name in the cache. */
#define TLS_CHAIN_MAX     10    /* certificates of a chain: each may cost a millisecond to verify */
#define TLS_DN_MAX        1024  /* our CA's name, so that a leaf fits its buffer */
#define TLS_LEAVES        1024  /* minted certificates kept: 0.7 KB each */
#define TLS_LEAF_WAYS     8
#define TLS_LEAF_LIFE     (7 * 86400)
#define TLS_LEAF_RENEW    86400 /* one with less left is minted anew: no client sees one expire */
#define TLS_BACKDATE      (48 * 3600)   /* clients' clocks may be behind ours */
#define TLS_CA_LIFE       ((int64_t)3650 * 86400)
#define TLS_CERT_MAX      65536 /* a peer's whole chain, and a root; real ones are under 20 KB */
#define TLS_BUNDLE_MAX    (16 << 20)    /* a trust file; the system's is 0.2 MB */
#define CERT_OTHER_MAX    640   /* bytes of an RSASSA-PSS key: 4,096 bits, as BearSSL's bound for RSA */
#define TLS_RSA_MIN       256   /* bytes: 2,048 bits, what OpenSSL's level 2 and all browsers ask */

/* -- locked memory: for keys and master secrets. Pages count against RLIMIT_MEMLOCK as they are
 * touched. Where locking is not allowed the memory serves unlocked, as the arena of secrets
 * does. */
static void *
tls_map(size_t n, int sharing)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return NULL;
	(void)mlock2(p, n, MLOCK_ONFAULT);
	(void)madvise(p, n, MADV_DONTDUMP);
	if (sharing == MAP_PRIVATE)
		(void)madvise(p, n, MADV_WIPEONFORK);
	return p;
}

/* SHA-256 of pieces, one behind the other. */
static void
tls_sha256_join(const struct slice *piece, size_t n, uint8_t out[32])
{
	br_sha256_context c;

	br_sha256_init(&c);
	for (size_t i = 0; i < n; i++)
		br_sha256_update(&c, piece[i].p, piece[i].n);
	br_sha256_out(&c, out);
	wipe(&c, sizeof c);
}

static void
tls_sha256(const void *p, size_t n, uint8_t out[32])
{
	tls_sha256_join(&(struct slice){p, n}, 1, out);
}

static void
tls_sha256_hex(struct slice s, char out[64])
{
	uint8_t h[32];

	tls_sha256(s.p, s.n, h);
	hex_encode(out, h, sizeof h);
}

/* -- DER, writing (X.690 10): backwards, so that an element's header comes after its contents. */
struct der {
	uint8_t *base, *at;     /* free room is [base, at); at == NULL: it did not fit */
};

static void
der_put(struct der *d, const void *p, size_t n)
{
	if (d->at == NULL || (size_t)(d->at - d->base) < n) {
		d->at = NULL;
		return;
	}
	d->at -= n;
	if (n != 0)
		memcpy(d->at, p, n);
}

#define DER_PUT(d, lit) der_put(d, lit, sizeof(lit) - 1)

static void
der_byte(struct der *d, uint8_t b)
{
	der_put(d, &b, 1);
}

/* Makes what was written since `end` the contents of one element. */
static void
der_wrap(struct der *d, uint8_t tag, const uint8_t *end)
{
	size_t n = d->at != NULL ? (size_t)(end - d->at) : 0;

	if (n < 0x80) {
		der_byte(d, (uint8_t)n);
	} else {
		uint8_t bytes = 0;

		for (; n != 0; n >>= 8, bytes++)
			der_byte(d, (uint8_t)n);
		der_byte(d, 0x80 | bytes);
	}
	der_byte(d, tag);
}

static void
der_elem(struct der *d, uint8_t tag, const void *p, size_t n)
{
	const uint8_t *end = d->at;

	der_put(d, p, n);
	der_wrap(d, tag, end);
}

/* RFC 5280 4.1.2.5: UTCTime through 2049, GeneralizedTime from 2050 on. */
static void
der_time(struct der *d, int64_t when)
{
	time_t t = (time_t)when;
	struct tm tm;
	char s[32];
	size_t n;

	gmtime_r(&t, &tm);
	n = strftime(s, sizeof s, tm.tm_year >= 150 ? "%Y%m%d%H%M%SZ" : "%y%m%d%H%M%SZ", &tm);
	der_elem(d, tm.tm_year >= 150 ? 0x18 : 0x17, s, n);
}

#define CERT_MALFORMED "malformed certificate"
#define X509_WEAK_HASH BR_ERR_X509_WRONG_KEY_TYPE       /* a code that its decoder never gives */

/* -- DER, reading: all of a certificate that decides whether it is to be trusted. Only its key is
 * for BearSSL's decoder, which reads the same text: so both are strict about lengths and about what
 * is left over, and never see two certificates in one. */
static bool
der_next(struct slice *in, uint8_t *tag, struct slice *body, struct slice *whole)
{
	const uint8_t *p = (const uint8_t *)in->p;
	size_t n, head = 2;

	if (in->n < 2 || (p[0] & 0x1f) == 0x1f)         /* X.509 has no tags of several bytes */
		return false;
	n = p[1];
	if (n >= 0x80) {
		size_t bytes = n & 0x7f;

		if (bytes == 0 || bytes > 4 || in->n < 2 + bytes)
			return false;
		for (n = 0, head = 2; head < 2 + bytes; head++)
			n = n << 8 | p[head];
		if (n < 0x80 || p[2] == 0)      /* X.690 10.1: as short as can be */
			return false;
	}
	if (n > in->n - head)
		return false;
	*tag = p[0];
	*body = (struct slice){in->p + head, n};
	if (whole != NULL)
		*whole = (struct slice){in->p, head + n};
	in->p += head + n;
	in->n -= head + n;
	return true;
}

/* Takes the next element off `in` if it has that tag. Of another tag, `in` stays as it is. */
static bool
der_expect(struct slice *in, uint8_t tag, struct slice *body, struct slice *whole)
{
	return in->n != 0 && (uint8_t)in->p[0] == tag && der_next(in, &tag, body, whole);
}

/* *body: the contents of the one element that `in` consists of. */
static bool
der_only(struct slice in, uint8_t tag, struct slice *body)
{
	return der_expect(&in, tag, body, NULL) && in.n == 0;
}

/* UTCTime or GeneralizedTime in the one form of RFC 5280 4.1.2.5: seconds, and "Z". */
static bool
der_read_time(struct slice *in, int64_t *out)
{
	struct tm tm = {0};
	struct slice s;
	char t[17];
	bool utc = der_expect(in, 0x17, &s, NULL);

	if ((!utc && !der_expect(in, 0x18, &s, NULL)) || s.n != (utc ? 13 : 15) || s.p[s.n - 1] != 'Z')
		return false;
	snprintf(t, sizeof t, "%s%.*s", !utc ? "" : s.p[0] >= '5' ? "19" : "20", (int)s.n - 1, s.p);
	/* strptime alone would take spaces, and fewer digits */
	if (strspn(t, "0123456789") != 14 || strptime(t, "%Y%m%d%H%M%S", &tm) != t + 14)
		return false;
	*out = timegm(&tm);
	return true;
}

struct cert_view {              /* all borrowed from the certificate */
	struct slice der, tbs;          /* the whole; what is signed, with its header */
	struct slice issuer, subject;   /* names with their headers: compared byte by byte */
	struct slice spki, exts;        /* exts: contents of the list; empty without */
	struct slice sig_alg, sig;      /* the OID's contents; the signature */
	int64_t not_before, not_after;
	/* what its extensions say (RFC 5280 4.2.1); without them nothing is limited */
	const char *fault;              /* static: why it can be no part of a path; NULL: nothing */
	struct slice names;             /* subjectAltName, where has_names */
	struct slice subtrees[2];       /* nameConstraints: permitted, excluded */
	struct slice key_id;            /* subjectKeyIdentifier, as it stands */
	bool has_names, is_ca, for_servers;
	uint8_t usage;                  /* keyUsage's first eight bits */
	int path_len;
};
#define CERT_SIGNS  0x80        /* keyUsage (4.2.1.3): digitalSignature */
#define CERT_ISSUES 0x04        /* keyCertSign */
#define FORM_DNS 0x82           /* names (4.2.1.6): the tags of the forms that we can compare */
#define FORM_DN  0xa4
#define FORM_IP  0x87
#define CONSTRAINTS_MAX 8192    /* bytes; with a chain full of names 0.1 s of comparing */

/* Takes the next GeneralSubtree off a list. RFC 5280 4.2.1.10 fixes its bounds: minimum 0, which
 * DER leaves out though some write it, and no maximum. */
static bool
subtree_next(struct slice *list, uint8_t *form, struct slice *base)
{
	struct slice tree, from;

	return der_expect(list, 0x30, &tree, NULL) && der_next(&tree, form, base, NULL) &&
	    (tree.n == 0 || (der_only(tree, 0x80, &from) && slice_eq(from, SLICE("\0"))));
}

/* Is `base` well-formed for names of that form? A base that can match no name would let names pass
 * that its CA meant to exclude. */
static bool
subtree_valid(uint8_t form, struct slice base)
{
	const uint8_t *p = (const uint8_t *)base.p;
	struct slice names;
	bool ended = false;

	if (form == FORM_DN)
		return der_only(base, 0x30, &names);
	if (form == FORM_IP && base.n != 8 && base.n != 32)
		return false;           /* an address and its mask, whose ones come first */
	for (size_t i = base.n / 2; i < base.n && form == FORM_IP; ended = p[i++] != 0xff)
		if ((ended && p[i] != 0) || (uint8_t)(~p[i] & (~p[i] + 1)) != 0)
			return false;
	for (size_t i = 0; i < base.n && form == FORM_DNS; i++)
		if (!ascii_alnum(base.p[i]) && base.p[i] != '-' && base.p[i] != '_' &&
		    (base.p[i] != '.' || i + 1 == base.n || base.p[i + 1] == '.'))
			return false;
	return true;
}

/* nameConstraints (4.2.1.10). A constraint on a form of names that we cannot compare ends the path
 * if it is critical (4.2). If it is not, it counts against each certificate below that has such a
 * name. */
static const char *
rule_constraints(struct cert_view *v, struct slice seq, bool critical)
{
	struct slice list, base;
	uint8_t tag, last = 0, form;

	if (seq.n == 0 || seq.n > CONSTRAINTS_MAX)
		return CERT_MALFORMED " (none, or too many name constraints)";
	for (; seq.n != 0; last = tag) {
		if (!der_next(&seq, &tag, &list, NULL) || (tag != 0xa0 && tag != 0xa1) ||
		    tag <= last || list.n == 0)
			return CERT_MALFORMED;
		v->subtrees[tag & 1] = list;
		while (list.n != 0) {
			if (!subtree_next(&list, &form, &base) || !subtree_valid(form, base))
				return CERT_MALFORMED " (its name constraints)";
			if (critical && form != FORM_DNS && form != FORM_DN && form != FORM_IP)
				return "certificate with critical name constraints of a form we do not know";
		}
	}
	return NULL;
}

/* Reads all extensions. NULL, or why the certificate can be no part of a path. */
static const char *
cert_rules(struct cert_view *v)
{
	struct slice list = v->exts, ext, oid, flag, value, in, s;
	const char *why = NULL;
	uint64_t seen = 0;
	uint8_t form;

	v->usage = 0xff;
	v->for_servers = true;
	v->path_len = INT_MAX;
	for (; why == NULL && list.n != 0; why = why == NULL && in.n != 0 ? CERT_MALFORMED : why) {
		bool critical = false;
		uint8_t id = 0;                 /* N of 2.5.29.N; 0: all others */

		if (!der_expect(&list, 0x30, &ext, NULL) || !der_expect(&ext, 0x06, &oid, NULL))
			return CERT_MALFORMED;
		if (der_expect(&ext, 0x01, &flag, NULL))
			critical = !slice_eq(flag, SLICE("\0"));
		if (oid.n == 3 && memcmp(oid.p, "\x55\x1d", 2) == 0 && oid.p[2] > 0 && oid.p[2] < 64)
			id = (uint8_t)oid.p[2];
		if (!der_only(ext, 0x04, &value) || (id != 0 && (seen >> id & 1) != 0))
			return CERT_MALFORMED;          /* 4.2: no two of a kind */
		seen |= (uint64_t)1 << id;
		in = SLICE("");         /* what is left of a value that is read */
		if ((id == 15 || id == 17 || id == 19 || id == 30 || id == 37) && !der_only(value, id == 15 ? 0x03 : 0x30, &in))
			return CERT_MALFORMED;
		switch (id) {
		case 14: v->key_id = value; break;
		case 15:        /* keyUsage */
			if (in.n == 0 || (uint8_t)in.p[0] > 7)
				return CERT_MALFORMED;
			v->usage = in.n == 1 ? 0 : (uint8_t)in.p[1];
			if (in.n == 2)
				v->usage &= (uint8_t)(0xff << in.p[0]);
			in.n = 0;
			break;
		case 17:        /* subjectAltName */
			v->has_names = true;
			v->names = in;
			while (der_next(&in, &form, &s, NULL))
				if (form == FORM_DNS && memchr(s.p, '\0', s.n) != NULL)
					return "certificate with a NUL byte in a name";
			break;
		case 19:        /* basicConstraints */
			if (der_expect(&in, 0x01, &s, NULL)) {
				if (s.n != 1)
					return CERT_MALFORMED;
				v->is_ca = s.p[0] != 0;
			}
			if (der_expect(&in, 0x02, &s, NULL)) {
				if (s.n == 0 || (s.p[0] & 0x80) != 0)
					return CERT_MALFORMED;
				v->path_len = s.n == 1 ? s.p[0] : INT_MAX;      /* no chain has 128 */
			}
			break;
		case 30:
			why = rule_constraints(v, in, critical);
			in.n = 0;
			break;
		/* extKeyUsage: serverAuth or any must be there. That an issuer's list limits what it issues
		 * is not in the RFC, but what all browsers and libraries do. */
		case 37:
			v->for_servers = false;
			while (der_expect(&in, 0x06, &s, NULL))
				if (slice_eq(s, SLICE("\x2b\x06\x01\x05\x05\x07\x03\x01")) ||
				    slice_eq(s, SLICE("\x55\x1d\x25\x00")))
					v->for_servers = true;
			break;
		case 9: case 18: case 35:       /* attributes, the issuer's names and key id */
		case 31: case 46:       /* where to ask whether it was revoked, which we do not */
		case 32: case 54:       /* policies: any will do, so none of these changes anything */
			break;
		default:
			if (critical)
				why = "certificate with a critical extension we do not know";
		}
	}
	if (why == NULL && !v->is_ca && v->subtrees[0].n + v->subtrees[1].n != 0)
		why = CERT_MALFORMED " (name constraints in what is not a CA)";
	return why;
}

/* Reads a certificate (RFC 5280 4.1). False: malformed. A certificate that is well-formed but can
 * be no part of a path has v->fault. */
static bool
cert_read(struct slice der, struct cert_view *v)
{
	struct slice cert, tbs, s, alg, inner, outer;
	uint8_t tag;

	*v = (struct cert_view){.der = der};
	if (!der_only(der, 0x30, &cert) || !der_expect(&cert, 0x30, &tbs, &v->tbs))
		return false;
	der_expect(&tbs, 0xa0, &s, NULL);
	if (!der_expect(&tbs, 0x02, &s, NULL) || !der_expect(&tbs, 0x30, &alg, &inner) ||
	    !der_expect(&alg, 0x06, &v->sig_alg, NULL) || !der_expect(&tbs, 0x30, &s, &v->issuer) ||
	    !der_expect(&tbs, 0x30, &s, NULL) || !der_read_time(&s, &v->not_before) ||
	    !der_read_time(&s, &v->not_after) || !der_expect(&tbs, 0x30, &s, &v->subject) ||
	    !der_expect(&tbs, 0x30, &s, &v->spki))
		return false;
	while (tbs.n != 0)
		if (!der_next(&tbs, &tag, &s, NULL) ||
		    (tag == 0xa3 && (tbs.n != 0 || !der_only(s, 0x30, &v->exts))))
			return false;
	if (!der_expect(&cert, 0x30, &s, &outer) || !slice_eq(inner, outer) ||  /* 4.1.1.2 */
	    !der_only(cert, 0x03, &s) || s.n < 2 || s.p[0] != 0)
		return false;
	v->sig = (struct slice){s.p + 1, s.n - 1};
	v->fault = cert_rules(v);
	return true;
}

/* -- names and their constraints (RFC 5280 4.2.1.10, RFC 9525) */

/* Returns 4 or 16, the bytes of an address in `ip`; 0: `host` is a name. Hosts come canonical, so
 * inet_pton reads all addresses. */
static size_t
host_ip(const char *host, uint8_t ip[16])
{
	if (inet_pton(AF_INET, host, ip) == 1)
		return 4;
	return inet_pton(AF_INET6, host, ip) == 1 ? 16 : 0;
}

struct rdn {                    /* RelativeDistinguishedName, like O=Acme: its first attribute */
	struct slice whole, id, value;
	bool several;           /* there are more attributes in the set */
};

static bool
rdn_next(struct slice *names, struct rdn *r)
{
	struct slice set, pair;
	uint8_t tag;

	if (!der_expect(names, 0x31, &set, &r->whole) || !der_expect(&set, 0x30, &pair, NULL) ||
	    !der_expect(&pair, 0x06, &r->id, NULL) || !der_next(&pair, &tag, &r->value, NULL))
		return false;
	r->several = set.n != 0;
	return true;
}

/* RFC 5280 7.1: neither case nor spaces count. `unsure` is the answer where bytes outside ASCII
 * differ, since they may be one letter in two encodings. */
static bool
rdn_same(struct slice a, struct slice b, bool unsure)
{
	for (size_t i = 0, k = 0;; i++, k++) {
		while (i < a.n && a.p[i] == ' ')
			i++;
		while (k < b.n && b.p[k] == ' ')
			k++;
		if (i == a.n || k == b.n)
			return i == a.n && k == b.n;
		if (ascii_lower(a.p[i]) != ascii_lower(b.p[k]))
			return unsure && (a.p[i] < ' ' || b.p[k] < ' ');
	}
}

/* Does the directoryName `dn` begin with `base`? `unsure` is the answer where we cannot tell. */
static bool
dn_within(struct slice base, struct slice dn, bool unsure)
{
	struct slice head, names;
	struct rdn a, b;

	if (!der_only(base, 0x30, &head) || !der_only(dn, 0x30, &names))
		return unsure;
	while (head.n != 0) {
		if (names.n == 0)
			return false;
		if (!rdn_next(&head, &a) || !rdn_next(&names, &b))
			return unsure;
		if (slice_eq(a.whole, b.whole))
			continue;
		if (a.several || b.several)
			return unsure;
		if (!slice_eq(a.id, b.id) || !rdn_same(a.value, b.value, unsure))
			return false;
	}
	return true;
}

/* RFC 9525 6.3: a wildcard is a whole first label, and stands for one. */
static bool
dns_matches(struct slice name, struct slice host)
{
	const char *dot = memchr(host.p, '.', host.n);

	if (name.n < 3 || name.p[0] != '*' || name.p[1] != '.')
		return slice_eq_nocase(name, host);
	return dot != NULL && dot != host.p && slice_eq_nocase((struct slice){name.p + 1, name.n - 1},
	    (struct slice){dot, host.n - (size_t)(dot - host.p)});
}

/* A name is within `base` if it equals `base` or ends in it, label by label. A base with a leading
 * dot wants one label more, as OpenSSL and Go read it. An empty base holds all names. RFC 5280 is
 * silent about wildcards: one is excluded if any name that it stands for is (OpenSSL compares only
 * the wildcard's own letters), and permitted only if all are. */
static bool
subtree_holds(uint8_t form, struct slice base, struct slice name, bool excluded)
{
	size_t more = name.n - base.n;

	if (form == FORM_DNS)
		return base.n == 0 || (excluded && dns_matches(name, base)) ||
		    (name.n >= base.n && slice_eq_nocase((struct slice){name.p + more, base.n}, base) &&
		    (more == 0 || base.p[0] == '.' || name.p[more - 1] == '.'));
	if (form == FORM_DN)
		return dn_within(base, name, excluded);
	if (form != FORM_IP || (name.n != 4 && name.n != 16))
		return excluded;        /* a form that we cannot compare is excluded, and never permitted */
	for (size_t i = 0; i < name.n; i++)
		if (base.n != 2 * name.n || ((name.p[i] ^ base.p[i]) & base.p[name.n + i]) != 0)
			return false;
	return true;
}

/* Do the constraints of `ca` allow `name` below it? An excluded subtree beats a permitted one. */
static bool
cert_allows(const struct cert_view *ca, uint8_t form, struct slice name)
{
	for (int excluded = 0; excluded < 2; excluded++) {
		struct slice list = ca->subtrees[excluded], base;
		bool named = false, held = false;
		uint8_t of;

		while (!held && subtree_next(&list, &of, &base))
			if (of == form) {
				named = true;
				held = subtree_holds(form, base, name, excluded != 0);
			}
		if (excluded ? held : named && !held)
			return false;
	}
	return true;
}

/* Is `host` among the certificate's subjectAltNames? An address is compared with iPAddress names
 * alone, all bytes (RFC 9110 4.3.5). */
static bool
cert_names(const struct cert_view *v, const char *host)
{
	struct slice names = v->names, s;
	uint8_t form, ip[16];
	size_t n = host_ip(host, ip);

	while (der_next(&names, &form, &s, NULL))
		if (n != 0 ? form == FORM_IP && s.n == n && memcmp(s.p, ip, n) == 0 :
		    form == FORM_DNS && dns_matches(s, slice_of(host)))
			return true;
	return false;
}

/* -- signatures of certificates. A row is an algorithm's OID; one without a row cannot be
 * checked. */
static const struct {
	struct slice oid;
	const br_hash_class *hash;      /* NULL: MD5 or SHA-1, whose collisions can be computed */
	const unsigned char *rsa;       /* the hash's OID in a PKCS#1 signature; NULL: ECDSA */
	bool other;                     /* not for BearSSL: OpenSSL checks what is signed so, and has such keys */
} cert_algs[] = {
	{SLICE_INIT("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"), &br_sha256_vtable, BR_HASH_OID_SHA256, false},
	{SLICE_INIT("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c"), &br_sha384_vtable, BR_HASH_OID_SHA384, false},
	{SLICE_INIT("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d"), &br_sha512_vtable, BR_HASH_OID_SHA512, false},
	{SLICE_INIT("\x2a\x86\x48\xce\x3d\x04\x03\x02"), &br_sha256_vtable, NULL, false},
	{SLICE_INIT("\x2a\x86\x48\xce\x3d\x04\x03\x03"), &br_sha384_vtable, NULL, false},
	{SLICE_INIT("\x2a\x86\x48\xce\x3d\x04\x03\x04"), &br_sha512_vtable, NULL, false},
	{SLICE_INIT("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04"), NULL, NULL, false},
	{SLICE_INIT("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05"), NULL, NULL, false},
	{SLICE_INIT("\x2a\x86\x48\xce\x3d\x04\x01"), NULL, NULL, false},
	{SLICE_INIT("\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"), NULL, NULL, true},      /* RSASSA-PSS */
	{SLICE_INIT("\x2b\x65\x70"), NULL, NULL, true},  /* Ed25519 */
};

/* The row of an algorithm; COUNT(cert_algs): it has none. */
static size_t
cert_alg(struct slice oid)
{
	size_t i = 0;

	while (i < COUNT(cert_algs) && !slice_eq(cert_algs[i].oid, oid))
		i++;
	return i;
}

/* Reads the certificate's public key into `dc`. 0, or why it cannot be used: BR_ERR_X509_… or X509_OTHER */
static int
cert_key(const struct cert_view *v, br_x509_decoder_context *dc)
{
	struct slice s = v->spki, alg, oid;
	const br_x509_pkey *pk;
	size_t i;
	int err;

	br_x509_decoder_init(dc, NULL, NULL);
	br_x509_decoder_push(dc, v->der.p, v->der.n);
	if ((pk = br_x509_decoder_get_pkey(dc)) != NULL)
		return pk->key_type == BR_KEYTYPE_RSA && pk->key.rsa.nlen < TLS_RSA_MIN ?
		    BR_ERR_X509_WEAK_PUBLIC_KEY : 0;
	err = br_x509_decoder_last_error(dc);
	if (err == BR_ERR_X509_UNSUPPORTED && s.n <= CERT_OTHER_MAX && der_only(s, 0x30, &s) && der_expect(&s, 0x30, &alg, NULL) &&
	    der_expect(&alg, 0x06, &oid, NULL) && (i = cert_alg(oid)) < COUNT(cert_algs) && cert_algs[i].other)
		return X509_OTHER;
	return err == BR_ERR_X509_UNSUPPORTED || err == BR_ERR_X509_LIMIT_EXCEEDED ? err :
	    BR_ERR_X509_INVALID_VALUE;
}

/* Was `v` signed with the key of `ca`? 0, or why not: BR_ERR_X509_… */
static int
cert_signed_by(const struct cert_view *v, const struct cert_view *ca)
{
	br_x509_decoder_context dc;
	br_hash_compat_context hash;
	const br_x509_pkey *pk;
	uint8_t own[64], signed_[64];
	size_t i = cert_alg(v->sig_alg), n;
	int err = cert_key(ca, &dc);

	if (i == COUNT(cert_algs) || err != 0)
		return err != 0 ? err : BR_ERR_X509_UNSUPPORTED;
	if (cert_algs[i].other)
		return X509_OTHER;
	if (cert_algs[i].hash == NULL)
		return X509_WEAK_HASH;
	pk = br_x509_decoder_get_pkey(&dc);
	n = cert_algs[i].hash->desc >> BR_HASHDESC_OUT_OFF & BR_HASHDESC_OUT_MASK;
	cert_algs[i].hash->init(&hash.vtable);
	cert_algs[i].hash->update(&hash.vtable, v->tbs.p, v->tbs.n);
	cert_algs[i].hash->out(&hash.vtable, own);
	if (cert_algs[i].rsa == NULL)
		return pk->key_type == BR_KEYTYPE_EC &&
		    br_ecdsa_vrfy_asn1_get_default()(br_ec_get_default(), own, n, &pk->key.ec, v->sig.p,
		    v->sig.n) == 1 ? 0 : BR_ERR_X509_BAD_SIGNATURE;
	return pk->key_type == BR_KEYTYPE_RSA &&
	    br_rsa_pkcs1_vrfy_get_default()((const unsigned char *)v->sig.p, v->sig.n,
	    cert_algs[i].rsa, n, &pk->key.rsa, signed_) == 1 && memcmp(own, signed_, n) == 0 ? 0 :
	    BR_ERR_X509_BAD_SIGNATURE;
}

/* -- certificates of our own: all on P-256. Private keys lie in locked memory (tls_keys). All
 * leaves of a process have one key, which ends with the process. */

static bool
p256_key_make(uint8_t key[32])
{
	br_hmac_drbg_context rng;
	uint8_t seed[48];
	bool ok = rand_bytes(seed, sizeof seed);

	br_hmac_drbg_init(&rng, &br_sha256_vtable, seed, ok ? sizeof seed : 0);
	ok = ok && br_ec_keygen(&rng.vtable, br_ec_get_default(), NULL, key, BR_EC_secp256r1) == 32;
	wipe(&rng, sizeof rng);
	wipe(seed, sizeof seed);
	return ok;
}

static bool
p256_public(uint8_t key[32], uint8_t pub[65])
{
	br_ec_private_key sk = {.curve = BR_EC_secp256r1, .x = key, .xlen = 32};

	return br_ec_compute_pub(br_ec_get_default(), NULL, pub, &sk) == 65;
}

struct issuer {
	struct slice dn;                /* its name, borrowed */
	const uint8_t *skid;            /* borrowed; 20 bytes of it */
	uint8_t *key;                   /* borrowed */
};

#define CERT_ROOM 4096          /* a leaf is 0.5 KB; with the longest host and issuer 2 KB */

#define ECDSA_SHA256 "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"
#define P256_SPKI /* what stands before the point */ "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce" \
    "\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00"

/* A Name of one commonName; empty if `cn` has more than the 64 characters of RFC 5280 A.1. */
static void
der_name(struct der *d, const char *cn)
{
	const uint8_t *end = d->at;

	if (strlen(cn) <= 64) {
		der_elem(d, 0x0c, cn, strlen(cn));
		DER_PUT(d, "\x06\x03\x55\x04\x03");
		der_wrap(d, 0x30, end);
		der_wrap(d, 0x31, end);
	}
	der_wrap(d, 0x30, end);
}

/* The extensions (RFC 5280 4.2.1) that never change, whole, and what stands before a key id. */
#define EXT_SKID "\x30\x1d\x06\x03\x55\x1d\x0e\x04\x16\x04\x14"        /* subjectKeyIdentifier */
#define EXT_AKID "\x30\x1f\x06\x03\x55\x1d\x23\x04\x18\x30\x16\x80\x14"        /* of the issuer */
#define EXT_USAGE "\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02"     /* keyUsage, critical: */
#define EXT_LEAF EXT_USAGE "\x07\x80" /* digitalSignature; extKeyUsage: serverAuth */ \
    "\x30\x13\x06\x03\x55\x1d\x25\x04\x0c\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"
#define EXT_CA "\x30\x12\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x08\x30\x06\x01\x01\xff\x02\x01\x00" /* \
    basicConstraints, critical: a CA, of leaves alone */ EXT_USAGE "\x02\x04"       /* keyCertSign */

/* Of a leaf for `host`; NULL: of the CA itself. */
static void
der_extensions(struct der *d, const char *host, const uint8_t *skid, const struct issuer *by)
{
	const uint8_t *end = d->at;
	uint8_t ip[16];

	if (host != NULL) {
		size_t n = host_ip(host, ip), len = strlen(host);

		der_elem(d, n != 0 ? FORM_IP : FORM_DNS, n != 0 ? ip : (const void *)host, n != 0 ? n : len);
		der_wrap(d, 0x30, end);
		der_wrap(d, 0x04, end);
		if (len > 64)           /* RFC 5280 4.2.1.6: critical if no subject */
			DER_PUT(d, "\x01\x01\xff");
		DER_PUT(d, "\x06\x03\x55\x1d\x11");
		der_wrap(d, 0x30, end);
		DER_PUT(d, EXT_LEAF);
		der_put(d, by->skid, 20);
		DER_PUT(d, EXT_AKID);
	} else {
		DER_PUT(d, EXT_CA);
	}
	der_put(d, skid, 20);
	DER_PUT(d, EXT_SKID);
	der_wrap(d, 0x30, end);
	der_wrap(d, 0xa3, end);
}

/* A certificate for `pub`, made in `room`: a leaf for `host`, or with NULL the issuer's own. Empty:
 * there was no randomness, or the certificate did not fit. */
static struct slice
cert_make(const char *host, const uint8_t pub[65], const struct issuer *by, int64_t now,
    uint8_t room[CERT_ROOM])
{
	br_ec_private_key sk = {.curve = BR_EC_secp256r1, .x = by->key, .xlen = 32};
	uint8_t *end = room + CERT_ROOM - 96;   /* behind it: the algorithm, and up to 72 bytes of signature */
	struct der d = {room, end};
	uint8_t serial[16], hash[32];
	const uint8_t *span;
	size_t n;

	if (now < (int64_t)BUILD_TIME)                  /* the clock was never set */
		now = (int64_t)BUILD_TIME;
	if (!rand_bytes(serial, sizeof serial))
		return (struct slice){NULL, 0};
	serial[0] = (serial[0] & 0x7f) | 0x40;          /* positive, and 16 bytes long always */
	tls_sha256(pub, 65, hash);
	der_extensions(&d, host, hash, by);
	der_put(&d, pub, 65);
	DER_PUT(&d, P256_SPKI);
	if (host != NULL)
		der_name(&d, host);
	else
		der_put(&d, by->dn.p, by->dn.n);
	span = d.at;
	der_time(&d, now + (host != NULL ? TLS_LEAF_LIFE : TLS_CA_LIFE));
	der_time(&d, now - TLS_BACKDATE);
	der_wrap(&d, 0x30, span);
	der_put(&d, by->dn.p, by->dn.n);
	DER_PUT(&d, ECDSA_SHA256);
	der_elem(&d, 0x02, serial, sizeof serial);
	DER_PUT(&d, "\xa0\x03\x02\x01\x02");            /* version 3 */
	der_wrap(&d, 0x30, end);
	if (d.at == NULL)
		return (struct slice){NULL, 0};
	tls_sha256(d.at, (size_t)(end - d.at), hash);
	memcpy(end, ECDSA_SHA256 "\x03\0", 15);         /* a BIT STRING of whole bytes */
	n = br_ecdsa_sign_asn1_get_default()(br_ec_get_default(), &br_sha256_vtable, hash, &sk, end + 15);
	end[13] = (uint8_t)(n + 1);
	span = end + 15 + n;
	der_wrap(&d, 0x30, span);
	return (struct slice){(const char *)d.at, n != 0 && d.at != NULL ? (size_t)(span - d.at) : 0};
}

/* -- certificates of our own: ECDSA P-256 throughout, made to pass openssl verify -x509_strict. */
static struct tls_keys {        /* locked; zero in a fork's child, which loads the CA itself */
	uint8_t ca[32], leaf[32];
} *tls_keys;

static struct {
	uint8_t dn[TLS_DN_MAX];         /* subject of the CA, as it stands in its certificate */
	size_t dn_n;
	uint8_t skid[32];               /* RFC 7093 2 (1): 160 bits of SHA-256 of the public key */
	uint8_t leaf_pub[65];
	br_ec_private_key leaf_sk;      /* its bytes are in tls_keys */
} tls_ca;

struct leaf {
	uint32_t refs;          /* the cache's and those of handshakes in progress */
	int64_t renew;          /* wall clock: mint anew from here on */
	br_x509_certificate chain;      /* points at `der` */
	void *x509;             /* owned; OpenSSL's form of it; NULL until that is wanted */
	char host[TLS_HOST_MAX + 1];
	uint8_t der[];
};

/* A new CA: its certificate (DER) in `room`, and its private key. Empty: no randomness. */
static struct slice
tls_ca_make(uint8_t room[CERT_ROOM], uint8_t key[32], int64_t now)
{
	uint8_t pub[65], skid[32], dn[128], tag[4];
	struct der name = {dn, dn + sizeof dn};
	char cn[32];

	if (!rand_bytes(tag, sizeof tag) || !p256_key_make(key) || !p256_public(key, pub))
		return (struct slice){NULL, 0};
	snprintf(cn, sizeof cn, "Sallyport CA %08x", load_be32(tag));   /* no two share a name */
	der_name(&name, cn);
	tls_sha256(pub, sizeof pub, skid);
	return cert_make(NULL, pub, &(struct issuer){{(const char *)name.at,
	    (size_t)(dn + sizeof dn - name.at)}, skid, key}, now, room);
}

/* Owned. A host's leaf lies in one of the TLS_LEAF_WAYS places of its set, the one used last
 * first. */
static struct leaf *leaves[TLS_LEAVES];

static void
leaf_unref(struct leaf *l)
{
	if (l == NULL || --l->refs != 0)
		return;
	ossl_drop_cert(l->x509);
	free(l);
}

/* The certificate for a host, minted if none is kept; the caller owns one reference. */
static struct leaf *
leaf_get(const char *host)
{
	const struct issuer by = {{(const char *)tls_ca.dn, tls_ca.dn_n}, tls_ca.skid, tls_keys->ca};
	int64_t now = clock_wall();
	uint32_t h = text_hash(host);
	struct leaf **set = &leaves[(h ^ h >> 16) & (TLS_LEAVES - 1) & ~(uint32_t)(TLS_LEAF_WAYS - 1)];
	struct leaf *l, *old;
	uint8_t room[CERT_ROOM];
	struct slice der;
	size_t i = 0;

	while (i < TLS_LEAF_WAYS - 1 && set[i] != NULL && strcmp(set[i]->host, host) != 0)
		i++;
	l = old = set[i];
	/* After a clock was set back, what was minted before is not valid yet. */
	if (l == NULL || strcmp(l->host, host) != 0 || now >= l->renew ||
	    now < l->renew - TLS_LEAF_LIFE - TLS_BACKDATE + TLS_LEAF_RENEW) {
		der = cert_make(host, tls_ca.leaf_pub, &by, now, room);
		if (der.n == 0 || (l = malloc(sizeof *l + der.n)) == NULL)
			return NULL;
		*l = (struct leaf){.refs = 1, .renew = now + TLS_LEAF_LIFE - TLS_LEAF_RENEW,
		    .chain = {.data = l->der, .data_len = der.n}};
		text_copy(l->host, sizeof l->host, host); /* tls_new checked its length */
		memcpy(l->der, der.p, der.n);
		leaf_unref(old);
	}
	memmove(set + 1, set, i * sizeof *set);
	set[0] = l;
	l->refs++;
	return l;
}

/* Hands the host's certificate and its key to BearSSL's policy for one EC chain, which chooses the
 * suite and the hash, and signs. The caller owns a reference in *l. */
static bool
leaf_show(struct leaf **l, const char *host, br_ssl_server_context *cc)
{
	if ((*l = leaf_get(host)) == NULL)
		return false;
	br_ssl_server_set_single_ec(cc, &(*l)->chain, 1, &tls_ca.leaf_sk, BR_KEYTYPE_SIGN, BR_KEYTYPE_EC,
	    br_ec_get_default(), br_ecdsa_sign_asn1_get_default());
	return true;
}

/* Loads the CA that signs in this process. Leaves that another CA signed are dropped. False: the
 * key is not the certificate's, or there is no memory or no randomness. */
static bool
tls_ca_load(struct slice cert_der, const void *key32)
{
	struct cert_view v;
	uint8_t spki[sizeof P256_SPKI - 1 + 65] = P256_SPKI, *pub = spki + sizeof P256_SPKI - 1;
	struct slice s;

	tls_ca_loaded = false;
	for (size_t i = 0; i < TLS_LEAVES; i++) {
		leaf_unref(leaves[i]);
		leaves[i] = NULL;
	}
	if (tls_keys == NULL && (tls_keys = tls_map(sizeof *tls_keys, MAP_PRIVATE)) == NULL)
		return false;
	memcpy(tls_keys->ca, key32, 32);
	if (!cert_read(cert_der, &v) || v.subject.n > TLS_DN_MAX ||
	    !p256_public(tls_keys->ca, pub) ||
	    !slice_eq(v.spki, (struct slice){(const char *)spki, sizeof spki})) {
		wipe(tls_keys->ca, 32);         /* not the key of this certificate */
		return false;
	}
	tls_sha256(pub, 65, tls_ca.skid);
	if (der_only(v.key_id, 0x04, &s) && s.n == 20)
		memcpy(tls_ca.skid, s.p, 20);
	memcpy(tls_ca.dn, v.subject.p, v.subject.n);
	tls_ca.dn_n = v.subject.n;
	if (!p256_key_make(tls_keys->leaf) || !p256_public(tls_keys->leaf, tls_ca.leaf_pub))
		return false;
	tls_ca.leaf_sk = (br_ec_private_key){BR_EC_secp256r1, tls_keys->leaf, 32};
	tls_ca_loaded = true;
	return true;
}

/* -- roots, from PEM bundles. A root is kept whole, because its extensions bind what is below it,
 * as any other issuer's do. */
struct tls_root {
	struct tls_root *next;  /* in the order of the files */
	struct cert_view cert;  /* into `der` */
	char der[];
};

struct tls_trust {
	uint32_t refs;
	uint32_t id;            /* never reused: part of the names of sessions */
	size_t n;
	struct tls_root *first, **last; /* owned */
};

static struct tls_trust *
trust_new(void)
{
	static uint32_t ids;
	struct tls_trust *t = calloc(1, sizeof *t);

	if (t != NULL)
		*t = (struct tls_trust){.refs = 1, .id = ++ids, .last = &t->first};
	return t;
}

static void
tls_trust_unref(struct tls_trust *t)
{
	if (t == NULL || --t->refs != 0)
		return;
	for (struct tls_root *r; (r = t->first) != NULL; free(r))
		t->first = r->next;
	free(t);
}

/* Takes the next object off a PEM text (RFC 7468) whose label ends in `kind`, as DER into `der`.
 * *name is that label, like "BEGIN EC PRIVATE KEY", or the last one that was passed over. 0: there
 * is none; -1: malformed. BearSSL's decoder takes 27 ms for the system's bundle, this one 2. */
static int
pem_next(struct slice *in, struct slice kind, struct slice *name, struct buf *der)
{
	const char *at, *stop, *last = in->p + in->n;
	ssize_t n;

	buf_clear(der);
	do {
		if (in->n == 0 || (at = memmem(in->p, in->n, "-----BEGIN ", 11)) == NULL ||
		    (stop = memmem(at + 5, (size_t)(last - at - 5), "-----", 5)) == NULL)
			return 0;
		*name = (struct slice){at + 5, (size_t)(stop - at - 5)};
		*in = (struct slice){stop, (size_t)(last - stop)};
	} while (name->n < kind.n || memcmp(stop - kind.n, kind.p, kind.n) != 0);
	at = stop + 5;
	stop = memmem(at, (size_t)(last - at), "-----END ", 9);
	if (stop == NULL || !buf_reserve(der, (size_t)(stop - at)))
		return -1;
	if (kind.n == name->n && ((size_t)(last - stop) < kind.n + 3 ||
	    memcmp(stop + 9, kind.p + 6, kind.n - 6) != 0))
		return -1;      /* a kind that is named whole ends as such, too */
	for (; at < stop; at++)
		if (!isspace((unsigned char)*at))
			der->p[der->n++] = *at;
	n = b64_decode(der->p, der->n, buf_slice(der), false);  /* in place */
	if (n <= 0)
		return -1;
	buf_cut(der, (size_t)n);
	*in = (struct slice){stop, (size_t)(last - stop)};
	return 1;
}

/* Adds all certificates of a PEM text, and the SHA-256 of each to `hashes`, unless that is NULL.
 * One with a key that we cannot use is left out: chains that end in it will be reported as
 * untrusted. */
static bool
trust_add_pem(struct tls_trust *t, struct slice pem, struct buf *hashes)
{
	br_x509_decoder_context dc;
	struct slice name;
	struct buf der;
	int found, err;

	buf_init(&der, 2 * TLS_CERT_MAX);
	while ((found = pem_next(&pem, SLICE("BEGIN CERTIFICATE"), &name, &der)) > 0) {
		struct tls_root *r = malloc(sizeof *r + der.n);
		uint8_t h[32];

		if (hashes != NULL)
			tls_sha256(der.p, der.n, h);
		if (r == NULL || (hashes != NULL && !buf_add(hashes, h, sizeof h))) {
			free(r);
			break;
		}
		memcpy(r->der, der.p, der.n);
		if (!cert_read((struct slice){r->der, der.n}, &r->cert) ||
		    ((err = cert_key(&r->cert, &dc)) != 0 && err != BR_ERR_X509_WEAK_PUBLIC_KEY && err != X509_OTHER)) {
			free(r);
			continue;
		}
		r->next = NULL;
		*t->last = r;
		t->last = &r->next;
		t->n++;
	}
	buf_free(&der);
	return found == 0;
}

/* Adds the roots of a file. False, and a reason in `why`: it cannot be read, or holds none. */
static bool
trust_add_file(struct tls_trust *t, const char *file, struct buf *why)
{
	struct buf text = {.max = TLS_BUNDLE_MAX};
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	const char *bad = fd < 0 ? strerror(errno) : buf_read(&text, fd);
	size_t before = t->n;
	bool ok = bad == NULL && trust_add_pem(t, buf_slice(&text), NULL);

	if (fd >= 0)
		close(fd);
	buf_free(&text);
	if (bad != NULL)
		buf_addf(why, "%s: %s", file, bad);
	else if (!ok)
		buf_addf(why, "%s: certificate %zu is malformed", file, t->n - before + 1);
	else if (t->n == before)
		buf_addf(why, "%s: no usable certificate in PEM form", file);
	return ok && t->n != before;
}

/* -- identities: what one credential brings to TLS with its own hosts: a client certificate and its key,
 * roots of its own, and certificates or keys that are trusted as themselves. A tls_ident never changes once
 * ident_new has made it; each connection that is made with it holds a reference. */
struct tls_ident {
	uint32_t refs;
	uint8_t tag[32];        /* hash of all it stands for: keeps connections and sessions apart */
	struct buf der;         /* owned; the certificates to show, one behind the other */
	br_x509_certificate chain[TLS_CHAIN_MAX];       /* into `der`; the credential's own first */
	size_t chain_n;
	struct secret *key;     /* owned; a br_skey_decoder_context; NULL: nothing to show */
	struct secret *key_text;        /* owned; the same as it was stored, for OpenSSL */
	struct tls_trust *roots;        /* owned reference; further ones; NULL: none */
	struct buf itself;      /* owned; SHA-256, 32 bytes each, of what is trusted as itself */
	bool pinned;            /* and nothing else is: hashes of certificates or of their keys */
	bool legacy;            /* tls=legacy: an old box of the operator's own network */
};

static struct tls_ident *
tls_ident_ref(struct tls_ident *id)
{
	if (id != NULL)
		id->refs++;
	return id;
}

static void
tls_ident_unref(struct tls_ident *id)
{
	if (id == NULL || --id->refs != 0)
		return;
	buf_free(&id->der);
	buf_free(&id->itself);
	secret_unref(id->key);
	secret_unref(id->key_text);
	tls_trust_unref(id->roots);
	free(id);
}

static struct slice
tls_ident_tag(const struct tls_ident *id)
{
	return id == NULL ? SLICE("") : (struct slice){(const char *)id->tag, sizeof id->tag};
}

/* Hands the chain and its key to BearSSL's policy for one chain (as leaf_show), of a server or a client. False: it
 * has none. */
static bool
tls_ident_show(const struct tls_ident *id, br_ssl_server_context *server, br_ssl_client_context *client)
{
	const br_skey_decoder_context *key = id != NULL && id->key != NULL ? (const void *)id->key->p : NULL;
	bool rsa = key != NULL && br_skey_decoder_key_type(key) == BR_KEYTYPE_RSA;

	if (rsa && server != NULL)
		br_ssl_server_set_single_rsa(server, id->chain, id->chain_n, br_skey_decoder_get_rsa(key),
		    BR_KEYTYPE_SIGN, 0, br_rsa_pkcs1_sign_get_default());
	else if (rsa)
		br_ssl_client_set_single_rsa(client, id->chain, id->chain_n, br_skey_decoder_get_rsa(key),
		    br_rsa_pkcs1_sign_get_default());
	else if (key != NULL && server != NULL)
		br_ssl_server_set_single_ec(server, id->chain, id->chain_n, br_skey_decoder_get_ec(key),
		    BR_KEYTYPE_SIGN, BR_KEYTYPE_EC, br_ec_get_default(), br_ecdsa_sign_asn1_get_default());
	else if (key != NULL)
		br_ssl_client_set_single_ec(client, id->chain, id->chain_n, br_skey_decoder_get_ec(key),
		    BR_KEYTYPE_SIGN, 0, br_ec_get_default(), br_ecdsa_sign_asn1_get_default());
	return key != NULL;
}

/* Is `what`, a certificate or a key, among those that are trusted as themselves? */
static bool
ident_knows(const struct tls_ident *id, struct slice what)
{
	uint8_t h[32];

	tls_sha256(what.p, what.n, h);
	for (size_t i = 0; i < id->itself.n; i += sizeof h)
		if (memcmp(id->itself.p + i, h, sizeof h) == 0)
			return true;
	return false;
}

/* -- verification: a path from the server's certificate to a root, each signed by the next, and
 * nothing on it that forbids it (RFC 5280 6.1). The walk is ours, because BearSSL's knows neither
 * name constraints nor purposes and ignores a root's extensions; keys and signatures are BearSSL's.
 * A chain may come out of order and with certificates too many: nothing is judged before its
 * end. */
#define VERIFY_CHECKS 12        /* signatures that are looked at: one of P-521 takes milliseconds */

struct tls_verify {
	const br_x509_class *vtable;    /* first: BearSSL casts */
	const char *host;               /* borrowed */
	bool is_ip;
	struct tls_trust *trust;        /* owned reference */
	struct tls_ident *ident;        /* owned reference, or NULL */
	bool *resumed;                  /* borrowed; false once a chain comes */
	struct buf certs;               /* the chain as it comes, at most TLS_CERT_MAX */
	size_t end[TLS_CHAIN_MAX];      /* where each certificate ends in `certs` */
	unsigned count;                 /* over TLS_CHAIN_MAX: too many came */
	int64_t now;
	struct cert_view cert[TLS_CHAIN_MAX];
	const struct cert_view *path[TLS_CHAIN_MAX + 1];        /* the server's own first */
	unsigned depth;                 /* of a path that was found: how many are in it whose dates count */
	unsigned used;                  /* bits: which of `cert` are in `path` */
	unsigned checks;
	uint8_t cn[2 + 127];            /* see verify_take_cn */
	unsigned err;                   /* BR_ERR_X509_…, once something is wrong */
	const char *why;                /* static; NULL: the table of reasons has it */
	br_x509_decoder_context own;    /* the server's key */
	bool also;                      /* OpenSSL judges the path that was found, too */
	bool agreed;                    /* it did */
	uint8_t hash[32];               /* see verify_known */
	bool asks, unknown;             /* see verify_step */
	bool good;                      /* the chain was judged, and is good */
	/* while a helper thread has it */
	struct job job;
	struct tls *tls;                /* lent; owns this struct */
	void (*moved)(br_ssl_engine_context *, size_t);
	size_t n;
	bool dropped;                   /* `tls` is to be freed */
};

static void
verify_start_chain(const br_x509_class **ctx, const char *server_name)
{
	struct tls_verify *v = OWNER(ctx, struct tls_verify, vtable);

	if (!v->unknown)        /* else a helper thread is here, and the loop was before */
		*v->resumed = false;
}

static void
verify_start_cert(const br_x509_class **ctx, uint32_t n)
{
}

static void
verify_append(const br_x509_class **ctx, const unsigned char *p, size_t n)
{
	struct tls_verify *v = OWNER(ctx, struct tls_verify, vtable);

	if (v->count < TLS_CHAIN_MAX)
		buf_add(&v->certs, p, n);
}

static void
verify_end_cert(const br_x509_class **ctx)
{
	struct tls_verify *v = OWNER(ctx, struct tls_verify, vtable);

	if (v->count < TLS_CHAIN_MAX)
		v->end[v->count] = v->certs.n;
	v->count++;
}

/* The root with the number `at`, from 0, of those that bear `name`, the credential's own first;
 * NULL: there are not so many. */
static const struct cert_view *
verify_root(const struct tls_verify *v, struct slice name, size_t at)
{
	const struct tls_ident *id = v->ident;
	const struct tls_trust *of[] = {id != NULL ? id->roots : NULL, v->trust};

	for (int k = 0; k < 2; k++)
		for (const struct tls_root *r = of[k] != NULL ? of[k]->first : NULL; r != NULL; r = r->next)
			if (slice_eq(r->cert.subject, name) && at-- == 0)
				return &r->cert;
	return NULL;
}

/* The first fault is reported. A signature that does not fit gives way to a later fault: it may
 * only mean that there is another certificate of this name. Always false, so that a step may return
 * it. */
static bool
verify_blame(struct tls_verify *v, unsigned err, const char *why)
{
	if (v->err == 0 || (v->err == BR_ERR_X509_BAD_SIGNATURE && err != BR_ERR_X509_NOT_TRUSTED)) {
		v->err = err;
		v->why = why;
	}
	return false;
}

/* Is that left to OpenSSL's verifier, which has to agree at the end? */
static bool
verify_left(const struct tls_verify *v, int err)
{
	return v->also && err == X509_OTHER;
}

static const char *
verify_dates(const struct tls_verify *v, const struct cert_view *c)
{
	return v->now < c->not_before ? "certificate not yet valid" :
	    v->now > c->not_after ? "certificate expired" : NULL;
}

/* tls=legacy: the commonName of a certificate without subjectAltName stands as one from here on, to
 * be compared with the host and with constraints. */
static void
verify_take_cn(struct tls_verify *v, struct cert_view *c)
{
	struct slice rdns, cn = {NULL, 0}, host = slice_of(v->host);
	struct rdn r;

	if (v->ident == NULL || !v->ident->legacy || c->has_names ||
	    !der_only(c->subject, 0x30, &rdns))
		return;
	while (rdn_next(&rdns, &r))
		if (slice_eq(r.id, SLICE("\x55\x04\x03")) && r.value.n < 128)
			cn = r.value;           /* the last is the most specific */
	v->cn[0] = v->is_ip ? FORM_IP : FORM_DNS;
	if (!v->is_ip)
		memcpy(v->cn + 2, cn.p != NULL ? cn.p : "", cn.n);
	else
		cn.n = slice_eq(cn, host) ? host_ip(v->host, v->cn + 2) : 0;
	v->cn[1] = (uint8_t)cn.n;
	c->names = (struct slice){(char *)v->cn, cn.n == 0 ? 0 : 2 + cn.n};
}

/* Do the name constraints of all certificates above allow all names below (4.2.1.10)? The names of
 * a self-issued certificate (one of a change of keys) count only where it is the server's own. */
static bool
verify_names(const struct tls_verify *v, unsigned top)
{
	struct slice names, s;
	uint8_t form;

	for (unsigned i = 1; i <= top; i++)
		for (unsigned k = 0; k < i; k++) {
			const struct cert_view *ca = v->path[i], *c = v->path[k];

			if (k != 0 && slice_eq(c->issuer, c->subject))
				continue;
			if (c->subject.n > 2 && !cert_allows(ca, FORM_DN, c->subject))
				return false;
			for (names = c->names; der_next(&names, &form, &s, NULL);)
				if (!cert_allows(ca, form, s))
					return false;
		}
	return true;
}

/* May `ca` stand above the n certificates of the path? If so, `ca` is on it. */
static bool
verify_link(struct tls_verify *v, unsigned n, const struct cert_view *ca, bool root)
{
	const struct cert_view *c = v->path[n - 1];
	int err, below = 0;
	const char *why;

	if (v->checks++ >= VERIFY_CHECKS)
		return verify_blame(v, BR_ERR_X509_LIMIT_EXCEEDED, "certificate chain too large");
	if ((err = cert_signed_by(c, ca)) != 0 && !verify_left(v, err))
		return verify_blame(v, (unsigned)err, err == BR_ERR_X509_BAD_SIGNATURE && root ?
		    "bad certificate signature (damaged, or not made by the trusted root of that name)" :
		    NULL);
	for (unsigned i = 1; i < n; i++)        /* 4.2.1.9: self-issued ones do not count */
		below += !slice_eq(v->path[i]->issuer, v->path[i]->subject);
	v->path[n] = ca;
	if (root && v->now > ca->not_after)
		why = "untrusted certificate (its root has expired)";
	else if ((why = verify_dates(v, ca)) == NULL && (why = ca->fault) == NULL)
		why = !ca->is_ca || (ca->usage & CERT_ISSUES) == 0 ?
		    "untrusted certificate (an issuer is not a CA)" : below > ca->path_len ?
		    "untrusted certificate (more authorities than one above them allows)" : !ca->for_servers ?
		    "untrusted certificate (an authority above it is not meant for servers)" :
		    root && !verify_names(v, n) ?
		    "untrusted certificate (the name constraints above it do not allow a name)" : NULL;
	return why == NULL || verify_blame(v, BR_ERR_X509_NOT_CA, why);
}

/* Is there a way from the n certificates of the path up to a root? */
static bool
verify_climb(struct tls_verify *v, unsigned n)
{
	const struct cert_view *c = v->path[n - 1], *root;

	for (size_t i = 0; (root = verify_root(v, c->issuer, i)) != NULL; i++)
		if (verify_link(v, n, root, true)) {
			v->depth = n + 1;
			return true;
		}
	for (unsigned i = 0; i < v->count; i++) {
		if ((v->used >> i & 1) != 0 || !slice_eq(v->cert[i].subject, c->issuer))
			continue;
		v->used |= 1u << i;
		if (verify_link(v, n, &v->cert[i], false) && verify_climb(v, n + 1))
			return true;
		v->used &= ~(1u << i);
	}
	return verify_blame(v, BR_ERR_X509_NOT_TRUSTED, slice_eq(c->issuer, c->subject) ?
	    n == 1 ? "untrusted certificate (self-signed)" : "untrusted certificate (unknown root)" :
	    n == 1 ? "untrusted certificate (unknown issuer; missing intermediate?)" :
	    "untrusted certificate (unknown authority)");
}

/* Judges the server's own certificate by all but its issuer. */
static bool
verify_leaf(struct tls_verify *v, struct cert_view *c)
{
	const char *why;
	int err = cert_key(c, &v->own);

	if ((why = verify_dates(v, c)) != NULL)
		return verify_blame(v, BR_ERR_X509_EXPIRED, why);
	if (c->fault != NULL)
		return verify_blame(v, BR_ERR_X509_CRITICAL_EXTENSION, c->fault);
	if (err != 0 && !verify_left(v, err))
		return verify_blame(v, (unsigned)err, NULL);
	verify_take_cn(v, c);
	if (!cert_names(c, v->host))
		return verify_blame(v, BR_ERR_X509_BAD_SERVER_NAME, slice_eq(c->issuer, c->subject) &&
		    verify_root(v, c->issuer, 0) == NULL ?
		    "untrusted certificate (self-signed, and for another name)" : !c->has_names ?
		    "certificate name mismatch (it has no subjectAltName; tls=legacy takes its CN)" : NULL);
	if (!c->for_servers)
		return verify_blame(v, BR_ERR_X509_FORBIDDEN_KEY_USAGE, NULL);
	if ((c->usage & CERT_SIGNS) == 0)
		return verify_blame(v, BR_ERR_X509_FORBIDDEN_KEY_USAGE,
		    "certificate whose key may not sign handshakes (keyUsage without digitalSignature)");
	return true;
}

/* Does the credential trust the server's own certificate as itself? Then its names and its issuer
 * do not count: the server that proves its key is the one that was meant. With a pin, which stands
 * for a key, its dates do not count either. True: judged, with the result in v->err. */
static bool
verify_itself(struct tls_verify *v)
{
	const struct tls_ident *id = v->ident;
	int err;

	if (id == NULL || id->itself.n == 0)
		return false;
	if (!ident_knows(id, v->cert[0].der) && !(id->pinned && ident_knows(id, v->cert[0].spki))) {
		return id->pinned && !verify_blame(v, BR_ERR_X509_NOT_TRUSTED,
		    "untrusted certificate (not the one that ca pins)");
	}
	if ((err = cert_key(&v->cert[0], &v->own)) != 0 && !verify_left(v, err))
		verify_blame(v, (unsigned)err, NULL);
	else if (!id->pinned && verify_dates(v, &v->cert[0]) != NULL)
		verify_blame(v, BR_ERR_X509_EXPIRED, verify_dates(v, &v->cert[0]));
	v->depth = !id->pinned;
	return true;
}

/* Is `c` a root itself, byte by byte? Then it needs no issuer. (The same name and key would not do:
 * the owner of a constrained root's key could give itself any name.) */
static bool
verify_is_root(const struct tls_verify *v, const struct cert_view *c)
{
	const struct cert_view *root;

	for (size_t i = 0; (root = verify_root(v, c->subject, i)) != NULL; i++)
		if (slice_eq(root->der, c->der))
			return true;
	return false;
}

/* -- chains that were found good: a hash of all inputs of the verification but the time, and from
 * when to when the result holds. Signatures are most of what verifying costs: 1 ms, with a P-384
 * issuer 4 ms. */
#define VERIFIED_MAX 256        /* places, one for each hash: 12 KB */

static struct verified {
	uint8_t hash[32];
	int64_t from, to;       /* of all dates on the path */
} verified[VERIFIED_MAX];

/* Was this chain found good, for this host, under these roots and pins? */
static bool
verify_known(struct tls_verify *v)
{
	const struct tls_ident *id = v->ident;
	const uint32_t of[] = {v->trust->id, id != NULL, id != NULL && id->roots != NULL ? id->roots->id : 0, v->count, v->also};
	const struct verified *k;

	tls_sha256_join((const struct slice[]){{(const char *)of, sizeof of}, {(const char *)v->end, sizeof v->end},
	    tls_ident_tag(id), {v->host, strlen(v->host) + 1}, buf_slice(&v->certs)}, 5, v->hash);
	k = &verified[v->hash[0] % VERIFIED_MAX];
	return memcmp(k->hash, v->hash, sizeof v->hash) == 0 && v->now >= k->from && v->now <= k->to;
}

/* Remembers a chain that was found good, for as long as all dates on its path allow. Loop thread. */
static void
verify_keep(const struct tls_verify *v)
{
	struct verified *k = &verified[v->hash[0] % VERIFIED_MAX];

	if (!v->good || v->also != v->agreed)
		return;
	*k = (struct verified){.from = INT64_MIN, .to = INT64_MAX};
	memcpy(k->hash, v->hash, sizeof k->hash);
	for (unsigned i = 0; i < v->depth; i++) {
		if (k->from < v->path[i]->not_before)
			k->from = v->path[i]->not_before;
		if (k->to > v->path[i]->not_after)
			k->to = v->path[i]->not_after;
	}
}

/* -- the result, and what connects it to BearSSL's engine and to `tls` */

/* 0, or why the chain is refused: BR_ERR_X509_… */
static unsigned
verify_end_chain(const br_x509_class **ctx)
{
	struct tls_verify *v = OWNER(ctx, struct tls_verify, vtable);
	bool fits = v->count <= TLS_CHAIN_MAX && buf_ok(&v->certs), known = fits && !v->unknown && verify_known(v);
	size_t from = 0;

	if (v->count == 0)
		return BR_ERR_X509_EMPTY_CHAIN;
	if (v->asks && !known) {
		v->unknown = true;
		return BR_ERR_X509_NOT_TRUSTED; /* nobody sees this: verify_step takes the step back */
	}
	if (!fits) {
		v->count = 0;
		verify_blame(v, BR_ERR_X509_LIMIT_EXCEEDED, "certificate chain too large");
	}
	for (unsigned i = 0; i < v->count; from = v->end[i++])
		if (v->end[i] == from ||
		    !cert_read((struct slice){v->certs.p + from, v->end[i] - from}, &v->cert[i])) {
			v->cert[i] = (struct cert_view){0};     /* no issuer: is_ca is false */
			if (i == 0)
				verify_blame(v, BR_ERR_X509_INVALID_VALUE, NULL);
		}
	v->path[0] = &v->cert[0];
	v->used = v->depth = 1;
	if (v->err == 0 && known && (v->also || cert_key(&v->cert[0], &v->own) == 0))
		return 0;
	if (v->err == 0 && !verify_itself(v) && verify_leaf(v, &v->cert[0]) &&
	    (verify_is_root(v, &v->cert[0]) || verify_climb(v, 1))) {
		v->err = 0;     /* of ways that led nowhere */
		v->why = NULL;
	}
	v->good = v->err == 0;
	if (!v->unknown)
		verify_keep(v);
	return v->err;
}

static const br_x509_pkey *
verify_get_pkey(const br_x509_class *const *ctx, unsigned *usages)
{
	if (usages != NULL)
		*usages = BR_KEYTYPE_SIGN;      /* all our suites want a signature */
	return br_x509_decoder_get_pkey(&OWNER(ctx, struct tls_verify, vtable)->own);
}

static const br_x509_class verify_class = {
	sizeof(struct tls_verify), verify_start_chain, verify_start_cert, verify_append,
	verify_end_cert, verify_end_chain, verify_get_pkey,
};

/* -- off the loop: the step of the engine that ends an unknown chain, milliseconds of signatures, would hold
 * up all agents. Such a step is taken back, and made again, whole, by a helper thread. Taking it back is
 * putting the engine's struct back: chains come in the clear, so BearSSL has changed no byte of its buffers
 * by then. The thread works in struct tls and what that owns, reads what `verify` has references of (it may
 * sign with a client certificate's key), and calls nothing that keeps a state of its own. */
static void
verify_job_run(struct job *j)
{
	struct tls_verify *v = OWNER(j, struct tls_verify, job);

	hook_hold();
	v->moved(&v->tls->u.eng, v->n);
}

static void
verify_job_done(struct defer *d)
{
	struct tls_verify *v = OWNER(d, struct tls_verify, job.defer);
	struct tls *t = v->tls;

	verify_keep(v);
	t->lent = false;
	if (v->dropped) {
		tls_free(t);
		return;
	}
	tls_stepped(t);
	t->watch->ready(t->watch);
}

/* Has a helper thread call `moved`. */
static void
verify_lend(struct tls *t, void (*moved)(br_ssl_engine_context *, size_t), size_t n)
{
	struct tls_verify *v = t->verify;

	t->lent = true;
	v->tls = t;
	v->moved = moved;
	v->n = n;
	v->job = (struct job){.lane = JOB_VERIFY, .owner = t->owner, .run = verify_job_run, .done = verify_job_done};
	job_submit(&v->job);
}

/* Makes a step of a client's engine in the clear: `moved` acknowledges n bytes. If a chain ends that is not
 * known, the step is only begun: t->lent until a helper thread has made it. */
static void
verify_step(struct tls *t, void (*moved)(br_ssl_engine_context *, size_t), size_t n)
{
	struct tls_verify *v = t->verify;
	br_ssl_client_context before;
	size_t certs_n = v->certs.n;
	unsigned count = v->count;

	if (v->path[0] != NULL) {       /* the chain has ended */
		moved(&t->u.eng, n);
		return;
	}
	before = t->u.client;
	v->asks = true;
	moved(&t->u.eng, n);
	v->asks = false;
	if (v->unknown) {
		t->u.client = before;
		v->certs.n = certs_n;
		v->count = count;
		verify_lend(t, moved, n);
	}
	wipe(&before, sizeof before);
}

/* The owner of an engine that is lent frees it. False: a helper thread is at it, and verify_job_done frees it. */
static bool
verify_take_back(struct tls_verify *v)
{
	v->dropped = !job_cancel(&v->job);
	return !v->dropped;
}

/* Makes an engine verify the server's chain, and show the credential's certificate when asked for
 * one. */
static struct tls_verify *
verify_new(struct tls_trust *trust, struct tls_ident *ident, const char *host, bool *resumed,
    br_ssl_client_context *cc)
{
	struct tls_verify *v = malloc(sizeof *v);
	uint8_t ip[16];

	if (v == NULL)
		return NULL;
	trust->refs++;
	*v = (struct tls_verify){.vtable = &verify_class, .host = host, .is_ip = host_ip(host, ip) != 0,
	    .trust = trust, .ident = tls_ident_ref(ident), .resumed = resumed, .now = clock_wall(),
	    .certs = {.max = TLS_CERT_MAX}};
	br_ssl_engine_set_x509(&cc->eng, &v->vtable);
	if (ident != NULL && ident->legacy)
		tls_suites(&cc->eng, COUNT(tls_suites_all));
	tls_ident_show(ident, NULL, cc);
	return v;
}

static void
verify_free(struct tls_verify *v)
{
	if (v == NULL)
		return;
	buf_free(&v->certs);
	tls_trust_unref(v->trust);
	tls_ident_unref(v->ident);
	free(v);
}

/* Offers the server the session that was made with the same trust, port, host and tag: `name` is
 * their SHA-256. True: there was one. */
static bool
verify_offer_session(const struct tls_verify *v, br_ssl_engine_context *eng, int port,
    struct slice tag, uint8_t name[32])
{
	br_ssl_session_parameters p;
	uint8_t head[8];
	bool found;

	store_be32(head, v->trust->id);
	store_be32(head + 4, (uint32_t)port);
	tls_sha256_join((const struct slice[]){{(const char *)head, sizeof head},
	    {v->host, strlen(v->host) + 1}, tag}, 3, name);
	if ((found = session_find(sessions_up, name, &p)))
		br_ssl_engine_set_session_parameters(eng, &p);
	wipe(&p, sizeof p);
	return found;
}

/* -- why an upstream's handshake failed (`tls` tells an agent's by its alert). The last row is for
 * all other errors. */
static const struct { int err; const char *why; } tls_reasons[] = {
	{BR_ERR_X509_BAD_SERVER_NAME, "certificate name mismatch"},
	{BR_ERR_X509_BAD_SIGNATURE, "bad certificate signature"},
	{BR_ERR_X509_WEAK_PUBLIC_KEY, "weak certificate key (under 2048 bits)"},
	{BR_ERR_X509_FORBIDDEN_KEY_USAGE, "certificate not meant for servers"},
	{BR_ERR_X509_INVALID_VALUE, CERT_MALFORMED},
	{BR_ERR_X509_UNSUPPORTED, "certificate with an algorithm we do not know"},
	{X509_OTHER, "certificate with an algorithm we do not know"},
	{X509_WEAK_HASH, "weak certificate signature (SHA-1 or MD5)"},
	{BR_ERR_X509_LIMIT_EXCEEDED, "certificate key too large (over RSA 4096)"},
	{BR_ERR_X509_EMPTY_CHAIN, "no certificate"},
	{BR_ERR_WRONG_KEY_USAGE, "certificate key of the wrong kind"},
	{BR_ERR_BAD_SIGNATURE, "bad handshake signature"},
	{BR_ERR_UNSUPPORTED_VERSION, "not TLS"},
	{BR_ERR_BAD_VERSION, "protocol version (inconsistent)"},
	{BR_ERR_BAD_MAC, "damaged record"},
	{BR_ERR_TOO_LARGE, "record too large"},
	{BR_ERR_RESUME_MISMATCH, "session resumed wrongly"},
	{BR_ERR_RECV_FATAL_ALERT + BR_ALERT_PROTOCOL_VERSION,
	    "protocol version (refuses TLS 1.2; it may speak only TLS 1.3)"},
	{BR_ERR_RECV_FATAL_ALERT + BR_ALERT_HANDSHAKE_FAILURE,
	    "handshake refused (no algorithm in common: it may speak only TLS 1.3, or what tls=legacy "
	    "takes, or its certificate lacks digitalSignature)"},
	{BR_ERR_RECV_FATAL_ALERT + BR_ALERT_INSUFFICIENT_SECURITY,
	    "handshake refused (no algorithm strong enough in common)"},
	{BR_ERR_RECV_FATAL_ALERT + TLS_UNRECOGNIZED_NAME, "server name not known there"},
	{BR_ERR_RECV_FATAL_ALERT + BR_ALERT_NO_APPLICATION_PROTOCOL, "refuses HTTP/1.1"},
	{BR_ERR_RECV_FATAL_ALERT + BR_ALERT_NO_RENEGOTIATION, "renegotiation wanted"},
	{BR_ERR_RECV_FATAL_ALERT + BR_ALERT_UNKNOWN_CA, "refuses our certificate"},
	{BR_ERR_RECV_FATAL_ALERT + BR_ALERT_BAD_CERTIFICATE, "refuses our certificate"},
	{BR_ERR_RECV_FATAL_ALERT + BR_ALERT_CERTIFICATE_EXPIRED, "refuses our certificate"},
	{BR_ERR_RECV_FATAL_ALERT + BR_ALERT_CERTIFICATE_UNKNOWN, "refuses our certificate"},
	{BR_ERR_RECV_FATAL_ALERT + TLS_CERTIFICATE_REQUIRED, "client certificate wanted"},
	{BR_ERR_OK, "handshake failed"},
};

/* Why the handshake failed, a static phrase; NULL for an agent's. */
static const char *
tls_reason(const struct tls *t, int err)
{
	int alert = err - BR_ERR_RECV_FATAL_ALERT, version = t->u.eng.version_in;
	size_t i = 0, last = COUNT(tls_reasons) - 1;

	if (!t->is_client)
		return NULL;
	if (t->verify != NULL && t->verify->why != NULL)        /* why the chain was refused */
		return t->verify->why;
	/* An old server takes our 1.2 down to its own and then finds no cipher of that time. */
	if ((version == BR_TLS10 || version == BR_TLS11) &&
	    (err == BR_ERR_UNSUPPORTED_VERSION || alert == BR_ALERT_HANDSHAKE_FAILURE))
		return "protocol version (offers only TLS 1.1 or older)";
	if (t->u.client.hashes != 0 &&  /* a CertificateRequest came */
	    (alert == BR_ALERT_HANDSHAKE_FAILURE || alert == BR_ALERT_BAD_CERTIFICATE))
		return t->u.client.client_auth_vtable != NULL ?
		    "refuses our client certificate" : "client certificate wanted";
	if (err == BR_ERR_OK)
		return "closed during the handshake";
	while (i < last && tls_reasons[i].err != err)
		i++;
	return t->done && i == last ? "protocol error" : tls_reasons[i].why;
}

/* ---- session ---------------------------------------------------------------
 * TLS sessions for resumption: a table of fixed slots without locks, because its writers are processes
 * that may be killed at any instruction. Each slot carries a hash of its own contents: a slot that two
 * writers or a killed one left torn does not match its hash and counts as absent. Skip it if you trust
 * that a session is found whole, by its name, in time, or not at all.
 *
 * A slot, in the byte order of the machine, in memory alone:
 *   offset  bytes
 *   0       32     name: SHA-256 of all that the session is bound to
 *   32      86     BearSSL's parameters: id 32, its length 1, unused 1, version 2, suite 2, secret 48
 *   118     2      zero
 *   120     8      expires, monotonic ms
 *   128     8      check: SHA-256 of what is above, its first bytes, the lowest bit set; 0: none */
#define TLS_SESSION_WAYS  4     /* slots a session may lie in: the one that ends first goes */

struct session {
	uint8_t name[32];       /* hash of all that the session is bound to; no attacker picks it */
	br_ssl_session_parameters of;   /* BearSSL's: id, version, suite, master secret */
	uint8_t spare[2];       /* zero: padding that the check covers too */
	int64_t expires;        /* monotonic ms: the same in all processes */
	uint64_t check;         /* first bytes of SHA-256 of what is above */
};

_Static_assert(sizeof(struct session) == 136, "no padding of ours: the check covers every byte");
#define SESSION_WORDS (sizeof(struct session) / 8)
#define SESSION_GROUP 32        /* slots of about a page: one never written is not swept, nor paged in */

struct session_table {
	size_t n;                                       /* slots, a power of two */
	_Atomic uint8_t used[TLS_SESSIONS / SESSION_GROUP];
	_Alignas(128) _Atomic uint64_t slot[][SESSION_WORDS];
};

static struct session_table *
session_table_new(size_t n, int sharing)
{
	struct session_table *t = tls_map(sizeof *t + n * sizeof(struct session), sharing);

	if (t != NULL)
		t->n = n;
	return t;
}

static void
session_table_lock(struct session_table *t)
{
	(void)mlock2(t, sizeof *t + t->n * sizeof(struct session), MLOCK_ONFAULT);
}

static uint64_t
session_check(const struct session *s)
{
	uint8_t h[32];

	tls_sha256(s, offsetof(struct session, check), h);
	return load_be64(h) | 1;        /* never 0, so that a wiped slot is not a session */
}

static void
session_read(struct session_table *t, size_t i, struct session *s)
{
	for (size_t k = 0; k < SESSION_WORDS; k++) {
		uint64_t w = atomic_load_explicit(&t->slot[i][k], memory_order_relaxed);

		memcpy((char *)s + 8 * k, &w, 8);
	}
}

static void
session_write(struct session_table *t, size_t i, const struct session *s)
{
	atomic_store_explicit(&t->used[i / SESSION_GROUP], 1, memory_order_relaxed);
	for (size_t k = 0; k < SESSION_WORDS; k++) {
		uint64_t w;

		memcpy(&w, (const char *)s + 8 * k, 8);
		atomic_store_explicit(&t->slot[i][k], w, memory_order_relaxed);
	}
}

/* The slot of `name`, with its contents in *s. If `name` has none: the slot of its set whose
 * session ends first, with zeros in *s. */
static size_t
session_slot(struct session_table *t, const uint8_t name[32], struct session *s)
{
	size_t set = load_be32(name) & (t->n - 1) & ~(size_t)(TLS_SESSION_WAYS - 1), at = set;
	int64_t first = INT64_MAX;

	for (size_t i = set; i < set + TLS_SESSION_WAYS; i++) {
		session_read(t, i, s);
		if (memcmp(s->name, name, 32) == 0)
			return i;
		if (s->expires < first) {
			first = s->expires;
			at = i;
		}
	}
	memset(s, 0, sizeof *s);
	return at;
}

/* The session of that name, whole and in time. */
static bool
session_find(struct session_table *t, const uint8_t name[32], br_ssl_session_parameters *p)
{
	struct session s;
	bool found;

	session_slot(t, name, &s);
	if ((found = s.check == session_check(&s) && s.expires > clock_now()))
		*p = s.of;
	wipe(&s, sizeof s);
	return found;
}

static void
session_put(struct session_table *t, const uint8_t name[32], const br_ssl_session_parameters *p,
    uint32_t life)
{
	struct session s;
	size_t at = session_slot(t, name, &s);

	memset(&s, 0, sizeof s);
	memcpy(s.name, name, sizeof s.name);
	memcpy(&s.of, p, sizeof s.of);
	s.expires = clock_now() + (int64_t)life * 1000;
	s.check = session_check(&s);
	session_write(t, at, &s);
	wipe(&s, sizeof s);
}

static void
session_drop(struct session_table *t, const uint8_t name[32])
{
	struct session s;
	size_t i = session_slot(t, name, &s);

	wipe(&s.of, sizeof s.of);
	if (s.check != 0)
		session_write(t, i, &(struct session){.check = 0});
}

/* Wipes slots that have expired or were left torn. A slot that another worker is writing may be
 * wiped too: its client then makes a full handshake. */
static void
session_sweep(struct session_table *t)
{
	struct session s;

	for (size_t i = 0; i < t->n; i++) {
		if (!atomic_load_explicit(&t->used[i / SESSION_GROUP], memory_order_relaxed)) {
			i |= SESSION_GROUP - 1;
			continue;
		}
		session_read(t, i, &s);
		if (s.check != 0 && (s.expires <= clock_now() || s.check != session_check(&s)))
			session_write(t, i, &(struct session){.check = 0});
	}
	wipe(&s, sizeof s);
}

/* ---- tls: openssl ----------------------------------------------------------
 * The system's OpenSSL as the engine for upstreams: TLS 1.3, and keys that BearSSL does not know; and for
 * agents with `agent-tls openssl`, for its speed. It is
 * never linked: a worker loads libcrypto.so.3 and libssl.so.3 from the folder of the C library for the first
 * connection that needs it; `version` and `doctor` load it to name it. Skip it if you trust that its ends do
 * as those of `tls`, and that its word on a chain is only ever the second one.
 *
 * Invariants. A chain is judged by `trust`, as with BearSSL; what that leaves (X509_OTHER) and the path that
 * it found OpenSSL must find good, too. No variable of the environment and no file but the two libraries is
 * read. It runs on the loop thread alone; what it allocates lies in the arena of secrets, but for what is
 * too large, which is wiped when it is freed. Its queue of errors is read as numbers, and emptied. */
#define OSSL_ARENA_MAX   (8u << 20)     /* a quarter of the arena; what would be more is ordinary memory */
#define OSSL_BLOCK_MAX   (14u << 10)    /* records are larger, and no secrets but what BearSSL's buffers hold */
#define OSSL_SESSIONS    256            /* hosts that can be resumed */
#define OSSL_SESSION_MAX 8192           /* bytes: a ticket, the server's certificate */
#define OSSL_VAIN_MAX    (2 * TLS_CERT_MAX)     /* bytes that may come without plaintext: a handshake, tickets, KeyUpdates */
#define OSSL_VAIN        32             /* each byte of plaintext pays for so many: a record of one byte has 23 */
#define OSSL_WANTED      256            /* hosts remembered that BearSSL cannot serve: 1 KB */

#define OSSL_FUNCTIONS(X) \
	X(CRYPTO_set_mem_functions) X(OpenSSL_version) X(ERR_get_error) X(ERR_clear_error) \
	X(BIO_meth_new) X(BIO_meth_set_read) X(BIO_meth_set_write) X(BIO_meth_set_ctrl) X(BIO_new) X(BIO_set_data) X(BIO_get_data) \
	X(BIO_set_init) X(BIO_set_flags) X(OPENSSL_sk_new_null) X(OPENSSL_sk_push) X(OPENSSL_sk_num) \
	X(OPENSSL_sk_value) X(OPENSSL_sk_pop_free) X(d2i_X509) X(i2d_X509) X(X509_free) \
	X(X509_STORE_CTX_get_ex_data) X(X509_STORE_CTX_get0_untrusted) X(X509_STORE_CTX_get0_param) X(X509_STORE_CTX_get_error) \
	X(X509_STORE_CTX_set_error) X(X509_STORE_CTX_set_verify_cb) X(X509_STORE_CTX_set0_trusted_stack) \
	X(X509_STORE_CTX_set0_untrusted) X(X509_verify_cert) X(X509_verify_cert_error_string) X(X509_VERIFY_PARAM_set_flags) \
	X(X509_VERIFY_PARAM_set_hostflags) X(X509_VERIFY_PARAM_set1_host) X(X509_VERIFY_PARAM_set1_ip) X(X509_VERIFY_PARAM_set_time) \
	X(X509_VERIFY_PARAM_set_auth_level) \
	X(OPENSSL_init_ssl) X(TLS_client_method) X(SSL_CTX_new) X(SSL_CTX_ctrl) X(SSL_CTX_set_options) X(SSL_CTX_set_verify) \
	X(SSL_CTX_set_cert_verify_callback) X(SSL_CTX_set_cert_cb) X(SSL_CTX_sess_set_new_cb) X(SSL_new) X(SSL_free) X(SSL_ctrl) \
	X(SSL_set_bio) X(SSL_set_ex_data) X(SSL_get_ex_data) X(SSL_get_ex_data_X509_STORE_CTX_idx) X(SSL_set_alpn_protos) \
	X(SSL_get0_alpn_selected) X(SSL_set_connect_state) X(SSL_do_handshake) X(SSL_read) X(SSL_write) X(SSL_get_error) \
	X(SSL_shutdown) X(SSL_set_session) X(SSL_session_reused) X(SSL_get_current_cipher) X(SSL_CIPHER_is_aead) \
	X(TLS_server_method) X(SSL_CTX_set_cipher_list) X(SSL_CTX_set_alpn_select_cb) X(SSL_CTX_callback_ctrl) X(SSL_CTX_set_info_callback) \
	X(SSL_CTX_use_PrivateKey_ASN1) X(SSL_get_servername) X(SSL_select_next_proto) X(SSL_set_session_id_context) X(SSL_set_accept_state) \
	X(SSL_use_certificate) X(SSL_CIPHER_get_kx_nid) X(SSL_use_certificate_ASN1) X(SSL_use_PrivateKey_ASN1) X(d2i_SSL_SESSION) X(i2d_SSL_SESSION) X(SSL_SESSION_free) \
	X(SSL_SESSION_is_resumable)

/* Theirs, by their names, once they are found. */
static struct {
#define X(name) __typeof__(name) *name;
	OSSL_FUNCTIONS(X)
#undef X
} ossl;
static const char *const ossl_names[] = {
#define X(name) #name,
	OSSL_FUNCTIONS(X)
#undef X
};
_Static_assert(sizeof ossl == COUNT(ossl_names) * sizeof(void *), "a function, a name");

static SSL_CTX *ossl_ctx, *ossl_server; /* owned, for ever; the first of upstreams' ends; NULL: not loaded */
static const unsigned char ossl_protocols[] = "\2h2\10http/1.1";
static BIO_METHOD *ossl_wire;           /* owned, for ever */
static const char *ossl_why;            /* static; why it was not to be loaded, which is tried once */
static pthread_t ossl_thread;           /* the loop's */
static size_t ossl_held;                /* bytes in the arena */

/* -- memory (CRYPTO_set_mem_functions): behind a header of 16 bytes, so that blocks are aligned as malloc's. What
 * another thread of this process lets go (a module of the C library, which uses OpenSSL too) is wiped, and lost
 * if it is the arena's, which is the loop's alone. */
#define OSSL_HEAD (16 - offsetof(struct secret, p))

static void *
ossl_realloc(void *p, size_t n, const char *file, int line)
{
	bool ours = (size_t)((char *)p - secret_arena.base) < SECRET_ARENA_MAX, loop = pthread_equal(pthread_self(), ossl_thread);
	struct secret *was = ours ? (struct secret *)(void *)((char *)p - 16) : NULL, *s = NULL;
	size_t had = ours ? was->n - OSSL_HEAD : p != NULL ? malloc_usable_size(p) : 0;
	void *to = NULL;

	if (n != 0 && n <= OSSL_BLOCK_MAX && ossl_held < OSSL_ARENA_MAX && loop && (s = secret_new(OSSL_HEAD + n)) != NULL)
		ossl_held += s->n;
	if (n != 0 && (to = s != NULL ? s->p + OSSL_HEAD : malloc(n)) == NULL)
		return NULL;
	if (had != 0 && n != 0)
		memcpy(to, p, had < n ? had : n);
	wipe(p, had);
	if (!ours) {
		free(p);
	} else if (loop) {
		ossl_held -= was->n;
		secret_unref(was);
	}
	return to;
}

static void *
ossl_malloc(size_t n, const char *file, int line)
{
	return ossl_realloc(NULL, n, file, line);
}

static void
ossl_release(void *p, const char *file, int line)
{
	ossl_realloc(p, 0, file, line);
}

/* -- the wire: -1 where there are no bytes, or is no room, and the BIO's flags always say that it may be tried again. */
static int
ossl_wire_read(BIO *b, char *out, int n)
{
	struct slice *from = &((struct tls *)ossl.BIO_get_data(b))->wire;
	size_t k = (size_t)n < from->n ? (size_t)n : from->n;

	if (k == 0)
		return -1;
	memcpy(out, from->p, k);
	*from = (struct slice){from->p + k, from->n - k};
	return (int)k;
}

static int
ossl_wire_write(BIO *b, const char *p, int n)
{
	struct tls *t = ossl.BIO_get_data(b);
	size_t room = t->bufs != NULL ? sizeof t->bufs->out - t->out_n : 0, k = (size_t)n < room ? (size_t)n : room;

	if (k == 0)
		return -1;
	memcpy(t->bufs->out + t->out_n, p, k);
	t->out_n += k;
	return (int)k;
}

static long
ossl_wire_ctrl(BIO *b, int cmd, long n, void *p)
{
	return cmd == BIO_CTRL_FLUSH;
}

/* -- sessions: serialized, in the arena; each in the place that its name has. */
static struct ossl_session {
	uint8_t name[32];
	struct secret *s;               /* owned; NULL: none */
	int64_t expires;                /* monotonic ms */
} ossl_sessions[OSSL_SESSIONS];

static struct ossl_session *
ossl_session(const struct tls *t)
{
	return &ossl_sessions[load_be32(t->name) % OSSL_SESSIONS];
}

static void
ossl_sweep(void)
{
	for (struct ossl_session *k = ossl_sessions; k < ossl_sessions + OSSL_SESSIONS; k++)
		if (k->s != NULL && k->expires <= clock_now())
			secret_drop(&k->s);
}

/* A session that may be resumed, of TLS 1.2 at the handshake's end, of 1.3 whenever the server sends a ticket. */
static int
ossl_keep(SSL *ssl, SSL_SESSION *session)
{
	struct tls *t = ossl.SSL_get_ex_data(ssl, 0);
	struct ossl_session *k = ossl_session(t);
	int n = ossl.SSL_SESSION_is_resumable(session) ? ossl.i2d_SSL_SESSION(session, NULL) : 0;
	struct secret *s = n > 0 && n <= OSSL_SESSION_MAX ? secret_new((size_t)n) : NULL;
	unsigned char *p = s != NULL ? (unsigned char *)s->p : NULL;

	if (s == NULL)
		return 0;
	ossl.i2d_SSL_SESSION(session, &p);
	secret_unref(k->s);
	*k = (struct ossl_session){.s = s, .expires = t->expires};
	memcpy(k->name, t->name, sizeof k->name);
	return 0;               /* theirs is freed */
}

static void
ossl_resume(struct tls *t)
{
	struct ossl_session *k = ossl_session(t);
	const unsigned char *p = k->s != NULL ? (const unsigned char *)k->s->p : NULL;
	SSL_SESSION *session;

	t->expires = clock_now() + (int64_t)TLS_SESSION_LIFE_UP * 1000;
	if (p == NULL || memcmp(k->name, t->name, sizeof k->name) != 0 || k->expires <= clock_now() ||
	    (session = ossl.d2i_SSL_SESSION(NULL, &p, (long)k->s->n)) == NULL)
		return;
	if (ossl.SSL_set_session(t->ssl, session) == 1)
		t->expires = k->expires;
	ossl.SSL_SESSION_free(session);
}

/* -- the server's chain, and what we show */

/* With strict reading (X509_STRICT) OpenSSL refuses what RFC 5280 asks of those who issue. These do not make a
 * path less sure, `trust` reads them as the RFC tells those who verify, and many a company's own CA has them.
 * Nor does OpenSSL take anyExtendedKeyUsage of an issuer; `trust` has judged what certificates are meant for. */
static int
ossl_lenient(int ok, X509_STORE_CTX *ctx)
{
	int err = ossl.X509_STORE_CTX_get_error(ctx);

	return ok || err == X509_V_ERR_CA_CERT_MISSING_KEY_USAGE || err == X509_V_ERR_MISSING_SUBJECT_KEY_IDENTIFIER ||
	    err == X509_V_ERR_MISSING_AUTHORITY_KEY_IDENTIFIER || err == X509_V_ERR_CA_BCONS_NOT_CRITICAL ||
	    err == X509_V_ERR_INVALID_PURPOSE;
}

static X509 *
ossl_x509(struct slice der)
{
	const unsigned char *p = (const unsigned char *)der.p;

	return ossl.d2i_X509(NULL, &p, (long)der.n);
}

/* Does OpenSSL find the path good that `trust` has found? It gets that root alone, and no other certificates. */
static bool
ossl_agrees(struct tls_verify *v, X509_STORE_CTX *ctx)
{
	static const struct { int err; unsigned code; } words[] = {
		{X509_V_ERR_CERT_SIGNATURE_FAILURE, BR_ERR_X509_BAD_SIGNATURE}, {X509_V_ERR_EE_KEY_TOO_SMALL, BR_ERR_X509_WEAK_PUBLIC_KEY},
		{X509_V_ERR_CA_KEY_TOO_SMALL, BR_ERR_X509_WEAK_PUBLIC_KEY}, {X509_V_ERR_CA_MD_TOO_WEAK, X509_WEAK_HASH},
		{X509_V_ERR_HOSTNAME_MISMATCH, BR_ERR_X509_BAD_SERVER_NAME},
	};
	OPENSSL_STACK *root = ossl.OPENSSL_sk_new_null(), *between = ossl.OPENSSL_sk_new_null();
	X509_VERIFY_PARAM *param = ossl.X509_STORE_CTX_get0_param(ctx);
	bool legacy = v->ident != NULL && v->ident->legacy, ok = root != NULL && between != NULL;
	uint8_t ip[16];
	int err = X509_V_ERR_OUT_OF_MEM;
	X509 *x;

	for (unsigned i = 1; i < v->depth && ok; i++) {
		x = ossl_x509(v->path[i]->der);
		if (!(ok = x != NULL && ossl.OPENSSL_sk_push(i + 1 == v->depth ? root : between, x) > 0))
			ossl.X509_free(x);
	}
	ossl.X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_X509_STRICT | X509_V_FLAG_PARTIAL_CHAIN);
	ossl.X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	ossl.X509_VERIFY_PARAM_set_time(param, (time_t)v->now);
	ossl.X509_VERIFY_PARAM_set_auth_level(param, 2);
	/* It lets no wildcard stand for a label with an underscore, nor right below a top-level name; `trust` has judged those. */
	ok = ok && (legacy || (!v->is_ip && (strchr(v->host, '_') != NULL || strchr(v->host, '.') == strrchr(v->host, '.'))) ||
	    (v->is_ip ? ossl.X509_VERIFY_PARAM_set1_ip(param, ip, host_ip(v->host, ip)) :
	    ossl.X509_VERIFY_PARAM_set1_host(param, v->host, 0)) == 1);
	if (ok) {
		ossl.X509_STORE_CTX_set0_trusted_stack(ctx, (STACK_OF(X509) *)root);
		ossl.X509_STORE_CTX_set0_untrusted(ctx, (STACK_OF(X509) *)between);
		ossl.X509_STORE_CTX_set_verify_cb(ctx, ossl_lenient);
		if ((ok = ossl.X509_verify_cert(ctx) == 1))
			ossl.X509_STORE_CTX_set_error(ctx, X509_V_OK);
		err = ossl.X509_STORE_CTX_get_error(ctx);
	}
	ossl.OPENSSL_sk_pop_free(root, (OPENSSL_sk_freefunc)ossl.X509_free);
	ossl.OPENSSL_sk_pop_free(between, (OPENSSL_sk_freefunc)ossl.X509_free);
	for (size_t i = 0; i < COUNT(words) && !ok && v->err == 0; i++)
		if (words[i].err == err)
			v->err = words[i].code;
	if (!ok && v->err == 0)
		verify_blame(v, BR_ERR_X509_NOT_TRUSTED, ossl.X509_verify_cert_error_string(err));
	return ok;
}

/* On a helper thread (verify_lend), which touches nothing of OpenSSL. */
static void
ossl_judge_chain(br_ssl_engine_context *eng, size_t n)
{
	verify_end_chain(&OWNER(eng, struct tls, u.eng)->verify->vtable);
}

/* Called by OpenSSL when the chain has come, and again once a helper thread has judged it. */
static int
ossl_judge(X509_STORE_CTX *ctx, void *arg)
{
	SSL *ssl = ossl.X509_STORE_CTX_get_ex_data(ctx, ossl.SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls *t = ossl.SSL_get_ex_data(ssl, 0);
	struct tls_verify *v = t->verify;
	OPENSSL_STACK *chain = (OPENSSL_STACK *)ossl.X509_STORE_CTX_get0_untrusted(ctx);

	if (v->count == 0 && v->err == 0) {
		t->resumed = false;
		for (int i = 0; i < ossl.OPENSSL_sk_num(chain); i++) {
			X509 *x = ossl.OPENSSL_sk_value(chain, i);
			int n = ossl.i2d_X509(x, NULL);
			unsigned char *p;

			if (v->count < TLS_CHAIN_MAX && n > 0 && buf_reserve(&v->certs, (size_t)n)) {
				p = (unsigned char *)v->certs.p + v->certs.n;
				ossl.i2d_X509(x, &p);
				v->certs.n += (size_t)n;
			}
			verify_end_cert(&v->vtable);
		}
		v->asks = t->watch != NULL;
		verify_end_chain(&v->vtable);
		v->asks = false;
		if (v->unknown) {
			ossl.SSL_ctrl(ssl, SSL_CTRL_SET_RETRY_VERIFY, 0, NULL);
			verify_lend(t, ossl_judge_chain, 0);
			return 1;       /* 3.0.0 would go on: ossl_opened asks what was judged */
		}
	}
	if (v->good && v->depth > 1 && !ossl_agrees(v, ctx))
		v->good = false;
	if (v->good) {
		v->agreed = true;
		verify_keep(v);
	}
	if (v->err != 0)
		ossl.X509_STORE_CTX_set_error(ctx, v->err == BR_ERR_X509_EXPIRED ? X509_V_ERR_CERT_HAS_EXPIRED :
		    v->err == BR_ERR_X509_NOT_TRUSTED ? X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY : X509_V_ERR_CERT_REJECTED);
	return v->err == 0;
}

/* Called when the server asks for a certificate of ours, and in a handshake with an agent, where it has two ClientHellos for
 * each. 0: it fails. */
static int
ossl_show(SSL *ssl, void *arg)
{
	struct tls *t = ossl.SSL_get_ex_data(ssl, 0);
	const struct tls_ident *id = t->is_client ? t->verify->ident : t->own;
	struct slice text, name;
	struct buf der;
	X509 *above;
	bool ok;

	if (t->is_client)
		t->u.client.hashes = 1; /* as BearSSL tells: tls_reason looks there */
	if (id == NULL || id->key_text == NULL)
		return 1;
	text = secret_slice(id->key_text);
	buf_init(&der, text.n);
	if (text.p[0] != 0x30 && pem_next(&text, SLICE("PRIVATE KEY"), &name, &der) > 0)
		text = buf_slice(&der);
	ok = ossl.SSL_use_certificate_ASN1(ssl, id->chain[0].data, (int)id->chain[0].data_len) == 1 &&
	    ossl.SSL_use_PrivateKey_ASN1(br_skey_decoder_key_type((void *)id->key->p) == BR_KEYTYPE_RSA ? EVP_PKEY_RSA : EVP_PKEY_EC,
	    ssl, (const unsigned char *)text.p, (long)text.n) == 1 && ossl.SSL_ctrl(ssl, SSL_CTRL_CHAIN, 0, NULL) == 1;
	for (size_t i = 1; i < id->chain_n && ok; i++) {
		above = ossl_x509((struct slice){(const char *)id->chain[i].data, id->chain[i].data_len});
		ok = above != NULL && ossl.SSL_ctrl(ssl, SSL_CTRL_CHAIN_CERT, 1, above) == 1;
		ossl.X509_free(above);
	}
	buf_free(&der);
	return ok;
}

/* -- agents */

/* The leaf of the end's host in OpenSSL's form. Whoever makes that gives our context the leaves' key as well: it is another
 * with each CA. */
static bool
ossl_leaf(struct tls *t)
{
	uint8_t key[] = "\x30\x31\2\1\1\4\x20................................\xa0\x0a\6\x08\x2a\x86\x48\xce\x3d\3\1\7";   /* RFC 5915 3 */

	if ((t->leaf = leaf_get(t->host)) != NULL && t->leaf->x509 == NULL) {
		memcpy(key + 7, tls_keys->leaf, 32);
		if (ossl.SSL_CTX_use_PrivateKey_ASN1(EVP_PKEY_EC, ossl_server, key, sizeof key - 1) == 1)
			t->leaf->x509 = ossl_x509((struct slice){(const char *)t->leaf->der, t->leaf->chain.data_len});
		wipe(key, sizeof key);
	}
	return t->leaf != NULL && t->leaf->x509 != NULL;
}

static void
ossl_drop_cert(void *x509)
{
	if (x509 != NULL)
		ossl.X509_free(x509);
}

/* Tickets hold the sessions. The key of the tickets is kept as a session is, so that all workers have the same, for a
 * day; when it has gone, nobody opens what it closed. */
static void
ossl_ticket_key(void)
{
	static const uint8_t name[32] = "tickets";      /* no hash */
	br_ssl_session_parameters p;
	uint8_t key[sizeof p.session_id + sizeof p.master_secret];

	if (!session_find(sessions_agents, name, &p)) {
		if (!rand_bytes(&p, sizeof p))
			return;         /* that of OpenSSL's own, then */
		session_put(sessions_agents, name, &p, TLS_SESSION_LIFE);
	}
	memcpy(key, p.session_id, sizeof p.session_id);
	memcpy(key + sizeof p.session_id, p.master_secret, sizeof p.master_secret);
	ossl.SSL_CTX_ctrl(ossl_server, SSL_CTRL_SET_TLSEXT_TICKET_KEYS, sizeof key, key);
	wipe(key, sizeof key);
	wipe(&p, sizeof p);
}

static int
ossl_named(SSL *ssl, int *alert, void *arg)
{
	*alert = TLS_UNRECOGNIZED_NAME;
	return tls_named(ossl.SSL_get_ex_data(ssl, 0), ossl.SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name)) ?
	    SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int
ossl_choose(SSL *ssl, const unsigned char **out, unsigned char *n, const unsigned char *in, unsigned in_n, void *arg)
{
	struct tls *t = ossl.SSL_get_ex_data(ssl, 0);
	unsigned skip = t->u.eng.protocol_names_num == 2 ? 0 : 3;

	return ossl.SSL_select_next_proto((unsigned char **)(uintptr_t)out, n, ossl_protocols + skip, (unsigned)sizeof ossl_protocols - 1 - skip, in, in_n) ==
	    OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

/* Called with each alert: tls_fail tells which of ours ended the connection. */
static void
ossl_alerted(const SSL *ssl, int where, int alert)
{
	if (where == SSL_CB_WRITE_ALERT && alert >> 8 == SSL3_AL_FATAL)
		((struct tls *)ossl.SSL_get_ex_data(ssl, 0))->u.eng.err = BR_ERR_SEND_FATAL_ALERT + (alert & 255);
}

/* -- the library */

/* NULL: no memory. */
static SSL_CTX *
ossl_context(const SSL_METHOD *method)
{
	SSL_CTX *ctx = ossl.SSL_CTX_new(method);

	if (ctx == NULL)
		return NULL;
	ossl.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, NULL);
	ossl.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL, NULL);
	ossl.SSL_CTX_ctrl(ctx, SSL_CTRL_MODE, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, NULL);
	ossl.SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_CLEANSE_PLAINTEXT);
	ossl.SSL_CTX_set_cert_cb(ctx, ossl_show, NULL);
	return ctx;
}

/* Tries once. True: it is there. */
static bool
ossl_load(void)
{
	static const char *const files[] = {"libz.so.1", "libzstd.so.1", "libcrypto.so.3", "libssl.so.3"};
	char **variables = environ, *none[] = {NULL}, path[PATH_MAX];
	void *lib[COUNT(files)] = {NULL}, *fn;
	bool astray = getenv("LD_LIBRARY_PATH") != NULL;
	Dl_info c;

	if (ossl_ctx != NULL || ossl_why != NULL)
		return ossl_ctx != NULL;
	if (dladdr((void *)(uintptr_t)gnu_get_libc_version, &c) == 0 || c.dli_fname[0] != '/')
		return ossl_why = "the C library's folder is not known", false;
	environ = none;         /* it would read OPENSSL_ia32cap, and whatever a later version asks for */
	/* The first two are what some systems' libcrypto needs: the loader would look where LD_LIBRARY_PATH says. */
	for (size_t i = 0; i < COUNT(files); i++) {
		snprintf(path, sizeof path, "%.*s/%s", (int)(strrchr(c.dli_fname, '/') - c.dli_fname), c.dli_fname, files[i]);
		if (i > 1 || astray)
			lib[i] = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
	}
	for (size_t i = 0; i < COUNT(ossl_names) && ossl_why == NULL; i++) {
		if (lib[2] == NULL || lib[3] == NULL)
			ossl_why = "libssl.so.3 is not among the system's libraries";
		else if ((fn = dlvsym(lib[3], ossl_names[i], "OPENSSL_3.0.0")) == NULL && (fn = dlvsym(lib[2], ossl_names[i], "OPENSSL_3.0.0")) == NULL)
			ossl_why = "libssl.so.3 lacks a function";
		else
			memcpy((char *)&ossl + i * sizeof fn, &fn, sizeof fn);
	}
	ossl_thread = pthread_self();
	if (ossl_why == NULL && ossl.CRYPTO_set_mem_functions(ossl_malloc, ossl_realloc, ossl_release) != 1)
		ossl_why = "a module of the system uses it in this process";
	if (ossl_why == NULL && (ossl.OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG | OPENSSL_INIT_NO_ATEXIT |
	    OPENSSL_INIT_NO_LOAD_SSL_STRINGS | OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS, NULL) != 1 ||
	    (ossl_wire = ossl.BIO_meth_new(BIO_TYPE_SOURCE_SINK, "sallyport")) == NULL ||
	    ossl.BIO_meth_set_read(ossl_wire, ossl_wire_read) != 1 || ossl.BIO_meth_set_write(ossl_wire, ossl_wire_write) != 1 ||
	    ossl.BIO_meth_set_ctrl(ossl_wire, ossl_wire_ctrl) != 1 || (ossl_server = ossl_context(ossl.TLS_server_method())) == NULL ||
	    (ossl_ctx = ossl_context(ossl.TLS_client_method())) == NULL))
		ossl_why = "it does not begin";
	environ = variables;
	if (ossl_why != NULL)
		return false;
	/* The ClientHello is OpenSSL's own; ossl_opened refuses what we do not want of what it offers. */
	ossl.SSL_CTX_ctrl(ossl_ctx, SSL_CTRL_SET_MAX_CERT_LIST, TLS_CERT_MAX, NULL);
	ossl.SSL_CTX_set_verify(ossl_ctx, SSL_VERIFY_PEER, NULL);
	ossl.SSL_CTX_set_cert_verify_callback(ossl_ctx, ossl_judge, NULL);
	ossl.SSL_CTX_sess_set_new_cb(ossl_ctx, ossl_keep);
	/* To agents: forward secrecy and AEAD, in our order, but for those who would rather have ChaCha20. */
	ossl.SSL_CTX_set_cipher_list(ossl_server, "ECDHE+AESGCM:ECDHE+CHACHA20");
	ossl.SSL_CTX_set_options(ossl_server, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
	ossl.SSL_CTX_set_alpn_select_cb(ossl_server, ossl_choose, NULL);
	ossl.SSL_CTX_callback_ctrl(ossl_server, SSL_CTRL_SET_TLSEXT_SERVERNAME_CB, (void (*)(void))ossl_named);
	ossl.SSL_CTX_set_info_callback(ossl_server, ossl_alerted);
	return true;
}

static bool
ossl_wanted(const char *host, uint16_t port, bool learn)
{
	static uint32_t wanted[OSSL_WANTED];
	uint32_t h = (text_hash(host) ^ port) | 1, *at = &wanted[(h >> 8) % OSSL_WANTED];      /* never 0 */

	if (learn)
		*at = h;
	return *at == h && ossl_load();
}

/* -- an end */
static void
ossl_free(void *ssl)
{
	if (ssl != NULL)
		ossl.SSL_free(ssl);
}

static bool
ossl_open(struct tls *t)
{
	unsigned skip = t->u.eng.protocol_names_num == 2 ? 0 : 3;
	bool ok = t->is_client || t->own != NULL || ossl_leaf(t);
	SSL *ssl = t->ssl = ok ? ossl.SSL_new(t->is_client ? ossl_ctx : ossl_server) : NULL;
	BIO *wire = ssl != NULL && ossl.SSL_set_ex_data(ssl, 0, t) == 1 ? ossl.BIO_new(ossl_wire) : NULL;

	t->resumed = false;
	if (wire == NULL)
		return false;
	ossl.BIO_set_data(wire, t);
	ossl.BIO_set_init(wire, 1);
	ossl.BIO_set_flags(wire, BIO_FLAGS_READ | BIO_FLAGS_WRITE | BIO_FLAGS_SHOULD_RETRY);
	ossl.SSL_set_bio(ssl, wire, wire);   /* it owns that */
	if (t->is_client) {
		t->verify->also = true;
		if (ossl.SSL_set_alpn_protos(ssl, ossl_protocols + skip, (unsigned)sizeof ossl_protocols - 1 - skip) != 0 || (!t->verify->is_ip &&
		    ossl.SSL_ctrl(ssl, SSL_CTRL_SET_TLSEXT_HOSTNAME, TLSEXT_NAMETYPE_host_name, t->host) != 1))
			return false;
		ossl_resume(t);
		ossl.SSL_set_connect_state(ssl);
	} else {
		tls_sha256_join((const struct slice[]){slice_of(t->host), tls_ident_tag(t->own)}, 2, t->name);
		if (ossl.SSL_set_session_id_context(ssl, t->name, sizeof t->name) != 1 ||
		    (t->own == NULL && ossl.SSL_use_certificate(ssl, t->leaf->x509) != 1))
			return false;
		ossl_ticket_key();
		ossl.SSL_set_accept_state(ssl);
	}
	ossl_step(t);
	return true;
}

/* `ret` is what a function of theirs answered that did not go through. Sees whether the end has failed. */
static void
ossl_stopped(struct tls *t, int ret)
{
	static const struct { int reason, err; const char *why; } reasons[] = {
		{SSL_R_UNSUPPORTED_PROTOCOL, 0, "protocol version (offers only TLS 1.1 or older)"},
		{SSL_R_TLSV1_ALERT_PROTOCOL_VERSION, 0, "protocol version (offers only TLS 1.1 or older)"},
		{SSL_R_EXCESSIVE_MESSAGE_SIZE, 0, "certificate chain too large"},
		{SSL_R_UNSAFE_LEGACY_RENEGOTIATION_DISABLED, 0, "handshake refused (the server lacks secure renegotiation, RFC 5746)"},
		{SSL_R_WRONG_VERSION_NUMBER, BR_ERR_UNSUPPORTED_VERSION, NULL}, {SSL_R_BAD_SIGNATURE, BR_ERR_BAD_SIGNATURE, NULL},
		{SSL_R_DECRYPTION_FAILED_OR_BAD_RECORD_MAC, BR_ERR_BAD_MAC, NULL}, {SSL_R_PACKET_LENGTH_TOO_LONG, BR_ERR_TOO_LARGE, NULL},
		{SSL_R_DATA_LENGTH_TOO_LONG, BR_ERR_TOO_LARGE, NULL}, {SSL_R_ENCRYPTED_LENGTH_TOO_LONG, BR_ERR_TOO_LARGE, NULL},
		{SSL_R_WRONG_CERTIFICATE_TYPE, BR_ERR_WRONG_KEY_USAGE, NULL},
	};
	int error = ossl.SSL_get_error(t->ssl, ret), reason = ERR_GET_REASON(ossl.ERR_get_error());
	const char *why = NULL;

	ossl.ERR_clear_error();
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_RETRY_VERIFY)
		return;
	if (error == SSL_ERROR_ZERO_RETURN && t->done) {
		t->u.eng.shutdown_recv = 1;
		return;
	}
	if (t->is_client)
		t->u.eng.err = error == SSL_ERROR_ZERO_RETURN ? BR_ERR_OK : BR_ERR_BAD_HANDSHAKE;
	for (size_t i = 0; i < COUNT(reasons) && t->is_client; i++)
		if (error == SSL_ERROR_SSL && reasons[i].reason == reason) {
			t->u.eng.err = reasons[i].err;
			why = reasons[i].why;
		}
	if (error == SSL_ERROR_SSL && why == NULL && reason > SSL_AD_REASON_OFFSET)
		t->u.eng.err = BR_ERR_RECV_FATAL_ALERT + reason - SSL_AD_REASON_OFFSET;
	if (reason == SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE && t->u.client.hashes == 0)
		why = "handshake refused (no algorithm in common)";
	if (t->verify != NULL && t->verify->err != 0)
		t->u.eng.err = (int)t->verify->err;
	if (t->is_client)
		secret_drop(&ossl_session(t)->s);       /* a session that a fatal alert ended is never resumed */
	tls_fail(t, why != NULL ? why : tls_reason(t, t->u.eng.err), 0);
}

/* The handshake is over: was it one that we want? The names are static, as BearSSL's. */
static void
ossl_opened(struct tls *t)
{
	const SSL_CIPHER *cipher = ossl.SSL_get_current_cipher(t->ssl);
	const struct tls_verify *v = t->verify;
	const unsigned char *name;
	unsigned n;
	bool legacy = v != NULL && v->ident != NULL && v->ident->legacy;

	ossl.SSL_get0_alpn_selected(t->ssl, &name, &n);
	t->resumed = ossl.SSL_session_reused(t->ssl) == 1;
	t->u.eng.selected_protocol = slice_eq((struct slice){(const char *)name, n}, SLICE("h2")) && t->u.eng.protocol_names_num == 2;
	if (v != NULL && !t->resumed && (v->count == 0 || v->err != 0 || v->good != v->agreed))
		tls_fail(t, "no certificate", 0);
	else if (cipher == NULL || ossl.SSL_CIPHER_get_kx_nid(cipher) == NID_kx_rsa || (!legacy && !ossl.SSL_CIPHER_is_aead(cipher)))
		tls_fail(t, "handshake refused (no algorithm strong enough in common)", 0);
	else if (n != 0 && t->u.eng.selected_protocol == 0 && !slice_eq((struct slice){(const char *)name, n}, SLICE("http/1.1")))
		tls_fail(t, "refuses HTTP/1.1", 0);
	else
		t->done = true;
}

/* Goes on with the handshake, or reads plaintext where there is none, as far as bytes are there. */
static void
ossl_step(struct tls *t)
{
	int n;

	ossl_seal(t);           /* what OpenSSL writes meanwhile comes behind it */
	ossl.ERR_clear_error();
	if (!t->done && !t->failed) {
		n = ossl.SSL_do_handshake(t->ssl);
		if (t->lent)
			return;
		if (n == 1)
			ossl_opened(t);
		else
			ossl_stopped(t, n);
		tls_shaken(t);
	}
	if (t->done && !t->failed && !t->closing && t->u.eng.shutdown_recv == 0 && t->got_n == 0) {
		n = ossl.SSL_read(t->ssl, t->bufs->in, PEER_PIECE);
		if (n <= 0)
			ossl_stopped(t, n);
		else if ((t->got_n = (size_t)n) > t->in_high)
			t->in_high = t->got_n;
	}
}

static size_t
ossl_feed(struct tls *t, const void *p, size_t n)
{
	size_t left;

	if (t->lent || t->got_n != 0)
		return 0;
	t->wire = (struct slice){p, n};
	ossl_step(t);
	left = t->wire.n;
	t->wire.n = 0;
	t->vain += n - left;
	t->vain -= t->vain / OSSL_VAIN < t->got_n ? t->vain : OSSL_VAIN * t->got_n;
	if (t->vain > OSSL_VAIN_MAX && !t->failed)
		tls_fail(t, "too many messages that carry nothing", 0);
	return t->failed || t->closing || t->u.eng.shutdown_recv != 0 ? n : n - left;
}

static size_t
ossl_drain(struct tls *t, void *out, size_t n)
{
	if (n > t->out_n - t->out_at)
		n = t->out_n - t->out_at;
	if (n != 0)
		memcpy(out, t->bufs->out + t->out_at, n);
	if ((t->out_at += n) == t->out_n) {
		t->out_at = t->out_n = 0;
		if (n != 0 && !t->done && !t->lent)
			ossl_step(t);           /* more of a flight may wait for room */
	}
	return n;
}

/* Makes a record of the plaintext in bufs->out. That is copied first: OpenSSL may write a message of its own before. */
static void
ossl_seal(struct tls *t)
{
	static unsigned char plain[PEER_PIECE];
	size_t n = t->plain_n;
	int k;

	if (n == 0 || t->failed)
		return;
	memcpy(plain, t->bufs->out, n);
	ossl.ERR_clear_error();
	if ((k = ossl.SSL_write(t->ssl, plain, (int)n)) > 0)
		t->plain_n = 0;         /* else tls_detach wipes what lies there */
	else
		ossl_stopped(t, k);
	if (k <= 0 && !t->failed)       /* there was room: it waits for the rest of a message that the peer began */
		tls_fail(t, "half a handshake message came", 0);
	wipe(plain, n);
}

static size_t
ossl_write(struct tls *t, const void *p, size_t n)
{
	if (t->failed || t->out_n != 0)
		return 0;               /* a record finds all the room there is: it is never cut */
	n = n < PEER_PIECE - t->plain_n ? n : PEER_PIECE - t->plain_n;
	memcpy(t->bufs->out + t->plain_n, p, n);
	if ((t->plain_n += n) == PEER_PIECE)
		ossl_seal(t);
	return n;
}

static void
ossl_shutdown(struct tls *t)
{
	ossl_seal(t);
	ossl.SSL_shutdown(t->ssl);
	ossl.ERR_clear_error();
}

/* ---- via -------------------------------------------------------------------
 * `upstream-proxy`: another proxy on the way to upstreams, which resolves their names. It is asked for
 * a tunnel (RFC 9110 9.3.6), and shown user and password at once (RFC 7617). Which hosts go through it
 * is decided in lua/route.lua. Invariants: the proxy sees nothing of a request but host and port; what
 * it answers is never an upstream's answer; its password goes to it alone. Skip it if none is set. */
#define VIA_INTERIM_MAX 8       /* 1xx answers before the one that counts */

/* The tunnel is not to be had: "the upstream proxy " and fmt, which has a %s for `why`, or none. */
static void
via_failf(struct upstream *u, const char *fmt, const char *why)
{
	size_t n = (size_t)snprintf(u->via_why, sizeof u->via_why, "the upstream proxy ");

	snprintf(u->via_why + n, sizeof u->via_why - n, fmt, why);
	upstream_fail(u, "upstream_proxy", u->via_why);
}

/* The dial is done: asks for a tunnel to u->host. */
static void
via_begin(struct upstream *u)
{
	char target[280];
	bool known = via.authorization != NULL;
	size_t n = (size_t)snprintf(target, sizeof target, "%s:%u", host_text(u->host), u->port);
	const struct slice piece[] = {SLICE("CONNECT "), {target, n}, SLICE(" HTTP/1.1\r\nHost: "), {target, n},
	    known ? SLICE("\r\nProxy-Authorization: Basic ") : SLICE(""),
	    known ? secret_slice(via.authorization) : SLICE(""), SLICE("\r\n\r\n")};

	if (u->via != via.epoch) {      /* the dial took a while: the password of another proxy is not for this one */
		via_failf(u, "%s", "was changed meanwhile");
		return;
	}
	for (size_t i = 0; i < COUNT(piece); i++)
		peer_put(&u->peer, piece[i].p, piece[i].n);     /* where this fails, so does the flush */
	u->peer.watch.writable = true;
	via_advance(u);
}

/* The final answer to the CONNECT. */
static void
via_answered(struct upstream *u, int status)
{
	bool known = via.authorization != NULL, silent = u->unread || peer_data(&u->peer).n == 0;
	const char *why = status == 407 || status == 401 ? known ?      /* 401: tinyproxy, for a wrong password */
	    "does not take the user and password that are kept (%s)" : "wants a user and password (%s)" :
	    status >= 500 ? "does not reach that host (%s)" : status >= 300 ? u->port == 443 ?
	    "refuses that host (%s)" : "refuses that host or port (%s; many let port 443 alone pass)" :
	    !silent ? "sent bytes of its own behind its answer" : NULL;
	char text[12];

	if (why != NULL) {
		snprintf(text, sizeof text, "%d", status);
		via_failf(u, why, text);
		return;
	}
	timer_stop(&u->timer);
	buf_free(&u->via_head);
	u->peer.received = 0;
	upstream_reached(u);
}

/* Reads on. RFC 9110 9.3.6: a 2xx has no body, whatever its fields say. */
static void
via_advance(struct upstream *u)
{
	static struct http_head head;   /* dead before this returns */
	enum io io = peer_flush(&u->peer) == IO_ERR ? IO_ERR : IO_OK;
	struct buf *b = &u->via_head;
	bool whole;

	while (u->state == UP_VIA && io == IO_OK && (io = peer_fill(&u->peer)) == IO_OK) {
		if (!peer_take_head(&u->peer, b, &u->via_scanned, &whole)) {
			via_failf(u, "%s", "cannot be asked: out of memory");
		} else if (memcmp(b->p, "HTTP/", b->n < 5 ? b->n : 5) != 0) {
			via_failf(u, "%s", "does not speak HTTP (perhaps TLS or SOCKS)");
		} else if (whole && (http_parse_response(b->p, b->n, SLICE("CONNECT"), &head) <= 0 || head.status == 101)) {
			via_failf(u, "sent a malformed answer%s", b->n == HTTP_HEAD_MAX ? " (a head of 64 KiB)" : "");
		} else if (whole && head.status >= 200) {
			via_answered(u, head.status);
		} else if (whole && ++u->via_interim > VIA_INTERIM_MAX) {
			via_failf(u, "%s", "does not come to an answer (1xx)");
		} else if (whole) {
			buf_clear(b);
			u->via_scanned = 0;
		}
	}
	if (u->state == UP_VIA && io != IO_AGAIN)
		via_failf(u, "%s", "closed the connection without an answer");
}

/* ---- json ------------------------------------------------------------------
 * RFC 8259 to the letter: no comments, no trailing comma, no NaN, no BOM, no bytes that are not
 * UTF-8, no half surrogate, nothing behind the value. One pull reader over a slice, one writer of
 * strings, and one way to find and to set a member of an object.
 *
 * Invariants. The reader allocates nothing and copies nothing: a token says which bytes of the text
 * it is, so that a secret can go from a response body straight into the arena, and a member can be
 * set while every other byte stays. json_char alone knows escapes. Skip it if you trust that what
 * it takes for JSON is what RFC 8259 takes for it. */
#define JSON_DEPTH_MAX   64     /* one bit a level; no API nests deeper, recursion stays small */
#define JSON_NUMBER_MAX  128    /* bytes of a number; a double needs 24 */
#define JSON_STRING_MAX  4096   /* bytes of a plain member of `expect`: scope, token_type */

enum json_type {
	JSON_BAD,               /* not JSON; every later call returns this too */
	JSON_END,               /* the text was one value, and that is read */
	JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING,
	JSON_KEY,               /* the colon behind it has been read */
	JSON_ARRAY, JSON_OBJECT,
	JSON_CLOSE,             /* of the innermost array or object */
};

struct json_token {
	enum json_type type;
	struct slice raw;       /* borrowed from the text: the whole token, quotes included */
	unsigned depth;         /* how many arrays and objects are around it */
	bool escaped;           /* string or key with a backslash in it */
};

enum json_want {
	JSON_WANT_VALUE, JSON_WANT_KEY,
	JSON_WANT_COMMA,        /* or the end of the array or object */
	JSON_WANT_END,
	JSON_WANT_NOTHING,      /* it failed */
};

struct json_reader {
	struct slice text;      /* borrowed */
	size_t at;
	uint64_t objects;       /* bit i: level i+1 is an object */
	unsigned depth;
	enum json_want want;
	bool first;             /* of an array or object, which may end here */
};

static void
json_open(struct json_reader *r, struct slice text)
{
	if (text.p == NULL)
		text = SLICE("");
	*r = (struct json_reader){.text = text, .want = JSON_WANT_VALUE};
}

/* -- characters and numbers */

/* Bytes of the well-formed UTF-8 sequence at p (RFC 3629: shortest form, no surrogates), or 0. */
static size_t
json_utf8(const char *p, size_t n)
{
	const unsigned char *b = (const unsigned char *)p;
	size_t len;

	if (n == 0)
		return 0;
	if (b[0] < 0x80)
		return 1;
	if (b[0] < 0xc2 || b[0] > 0xf4)
		return 0;
	len = b[0] < 0xe0 ? 2 : b[0] < 0xf0 ? 3 : 4;
	if (n < len)
		return 0;
	if (b[1] < (b[0] == 0xe0 ? 0xa0 : b[0] == 0xf0 ? 0x90 : 0x80) ||
	    b[1] > (b[0] == 0xed ? 0x9f : b[0] == 0xf4 ? 0x8f : 0xbf))
		return 0;
	for (size_t i = 2; i < len; i++)
		if ((b[i] & 0xc0) != 0x80)
			return 0;
	return len;
}

/* Four hexadecimal digits, or -1. */
static long
json_hex4(const char *p, size_t n)
{
	uint8_t b[2];

	return n >= 4 && hex_decode(b, (struct slice){p, 4}) ? load_be16(b) : -1;
}

/* Writes code point `c` as UTF-8. Returns its bytes. */
static size_t
json_put_utf8(char out[4], long c)
{
	static const unsigned char lead[] = {0, 0x00, 0xc0, 0xe0, 0xf0};
	size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

	for (size_t i = n - 1; i > 0; i--, c >>= 6)
		out[i] = (char)(0x80 | (c & 63));
	out[0] = (char)(lead[n] | c);
	return n;
}

/* The character of a string that begins at p: writes its UTF-8 to `out`, its length to *len.
 * Returns the bytes read; 0: no string may hold them. */
static size_t
json_char(const char *p, size_t n, char out[4], size_t *len)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *at;
	long c, low;

	if (n == 0 || (unsigned char)p[0] < 0x20)
		return 0;
	if (p[0] != '\\') {
		*len = json_utf8(p, n);
		memcpy(out, p, *len);
		return *len;
	}
	if (n < 2 || p[1] == '\0')
		return 0;
	if ((at = strchr(from, p[1])) != NULL) {
		out[0] = to[at - from];
		*len = 1;
		return 2;
	}
	if (p[1] != 'u' || (c = json_hex4(p + 2, n - 2)) < 0 || (c >= 0xdc00 && c <= 0xdfff))
		return 0;
	if (c >= 0xd800 && c <= 0xdbff) {
		if (n < 12 || p[6] != '\\' || p[7] != 'u')
			return 0;
		low = json_hex4(p + 8, 4);
		if (low < 0xdc00 || low > 0xdfff)
			return 0;
		*len = json_put_utf8(out, 0x10000 + (c - 0xd800) * 0x400 + (low - 0xdc00));
		return 12;
	}
	*len = json_put_utf8(out, c);
	return 6;
}

/* Moves *i past digits. False: there is none. */
static bool
json_digits(const char *p, size_t n, size_t *i)
{
	size_t from = *i;

	while (*i < n && ascii_digit(p[*i]))
		++*i;
	return *i != from;
}

/* Bytes of the number at p by RFC 8259 section 6, or 0. */
static size_t
json_number_len(const char *p, size_t n)
{
	size_t i = n != 0 && p[0] == '-';

	if (i < n && p[i] == '0')
		i++;
	else if (!json_digits(p, n, &i))
		return 0;
	if (i < n && p[i] == '.') {
		i++;
		if (!json_digits(p, n, &i))
			return 0;
	}
	if (i < n && (p[i] == 'e' || p[i] == 'E')) {
		i++;
		i += i < n && (p[i] == '+' || p[i] == '-');
		if (!json_digits(p, n, &i))
			return 0;
	}
	return i;
}

/* -- tokens */

static enum json_type
json_fail(struct json_reader *r, struct json_token *t)
{
	r->want = JSON_WANT_NOTHING;
	t->type = JSON_BAD;
	t->raw = (struct slice){r->text.p + r->at, 0};
	return JSON_BAD;
}

static inline enum json_type
json_token(struct json_reader *r, struct json_token *t, enum json_type type, size_t n)
{
	t->type = type;
	t->raw = (struct slice){r->text.p + r->at, n};
	t->depth = r->depth;
	r->at += n;
	return type;
}

static inline void
json_skip_space(struct json_reader *r)
{
	char c;

	while (r->at < r->text.n && ((c = r->text.p[r->at]) == ' ' || c == '\n' || c == '\t' || c == '\r'))
		r->at++;
}

/* Moves *i past bytes that are characters of a string by themselves, eight at a time: ASCII, no control, quote or backslash. */
static void
json_skip_plain(const char *p, size_t n, size_t *i)
{
	const uint64_t ones = ~(uint64_t)0 / 255;
	uint64_t v;

	for (; n - *i >= 8; *i += 8) {
		memcpy(&v, p + *i, sizeof v);
		v = le64toh(v);
		/* bit 7 is set: of bytes beyond ASCII, of controls, and perhaps of those behind one */
		v = ((v | (v - ones * ' ')) & ones << 7) | ascii_eight(p + *i, '"') | ascii_eight(p + *i, '\\');
		if (v != 0) {
			*i += (size_t)__builtin_ctzll(v) / 8;
			break;
		}
	}
}

static enum json_type
json_read_string(struct json_reader *r, struct json_token *t, enum json_type type)
{
	const char *p = r->text.p + r->at;
	size_t n = r->text.n - r->at, i = 1, used, len;
	bool used_c = false;
	char c[4];

	t->escaped = false;
	for (json_skip_plain(p, n, &i); i < n && p[i] != '"'; json_skip_plain(p, n, &i)) {
		used_c = true;
		t->escaped |= p[i] == '\\';
		if ((used = json_char(p + i, n - i, c, &len)) == 0)
			break;
		i += used;
	}
	if (used_c)
		wipe(c, sizeof c);      /* the string may be a secret */
	if (i >= n || p[i] != '"')
		return json_fail(r, t);
	return json_token(r, t, type, i + 1);
}

static enum json_type
json_read_open(struct json_reader *r, struct json_token *t, enum json_type type)
{
	uint64_t bit;

	if (r->depth == JSON_DEPTH_MAX)
		return json_fail(r, t);
	json_token(r, t, type, 1);
	bit = (uint64_t)1 << r->depth++;
	r->objects = type == JSON_OBJECT ? r->objects | bit : r->objects & ~bit;
	r->want = type == JSON_OBJECT ? JSON_WANT_KEY : JSON_WANT_VALUE;
	r->first = true;
	return type;
}

static inline bool
json_in_object(const struct json_reader *r)
{
	return r->depth != 0 && (r->objects >> (r->depth - 1) & 1) != 0;
}

static enum json_type
json_read_value(struct json_reader *r, struct json_token *t)
{
	static const struct { struct slice word; enum json_type type; } words[] = {
		{SLICE_INIT("null"), JSON_NULL}, {SLICE_INIT("true"), JSON_TRUE}, {SLICE_INIT("false"), JSON_FALSE},
	};
	struct slice left = {r->text.p + r->at, r->text.n - r->at};
	size_t n;

	r->want = r->depth == 0 ? JSON_WANT_END : JSON_WANT_COMMA;
	if (left.p[0] == '{' || left.p[0] == '[')
		return json_read_open(r, t, left.p[0] == '{' ? JSON_OBJECT : JSON_ARRAY);
	if (left.p[0] == '"')
		return json_read_string(r, t, JSON_STRING);
	for (size_t i = 0; i < COUNT(words); i++)
		if (left.n >= words[i].word.n && memcmp(left.p, words[i].word.p, words[i].word.n) == 0)
			return json_token(r, t, words[i].type, words[i].word.n);
	n = json_number_len(left.p, left.n);
	return n == 0 ? json_fail(r, t) : json_token(r, t, JSON_NUMBER, n);
}

/* The next token. After JSON_BAD or JSON_END every call returns the same again. */
static enum json_type
json_next(struct json_reader *r, struct json_token *t)
{
	bool may_close = r->first || r->want == JSON_WANT_COMMA;

	r->first = t->escaped = false;
	json_skip_space(r);
	if (r->want == JSON_WANT_END && r->at == r->text.n)
		return json_token(r, t, JSON_END, 0);
	if (r->at == r->text.n || r->want >= JSON_WANT_END)
		return json_fail(r, t);
	if (may_close && r->text.p[r->at] == (json_in_object(r) ? '}' : ']')) {
		r->depth--;
		r->want = r->depth == 0 ? JSON_WANT_END : JSON_WANT_COMMA;
		return json_token(r, t, JSON_CLOSE, 1);
	}
	if (r->want == JSON_WANT_COMMA) {
		if (r->text.p[r->at] != ',')
			return json_fail(r, t);
		r->at++;
		r->want = json_in_object(r) ? JSON_WANT_KEY : JSON_WANT_VALUE;
		json_skip_space(r);
		if (r->at == r->text.n)
			return json_fail(r, t);
	}
	if (r->want != JSON_WANT_KEY)
		return json_read_value(r, t);
	if (r->text.p[r->at] != '"' || json_read_string(r, t, JSON_KEY) == JSON_BAD)
		return json_fail(r, t);
	json_skip_space(r);
	if (r->at == r->text.n || r->text.p[r->at] != ':')
		return json_fail(r, t);
	r->at++;
	r->want = JSON_WANT_VALUE;
	return JSON_KEY;
}

/* -- the texts of tokens */

/* The bytes between the quotes of a string or key, as they stand in the text. */
static struct slice
json_inside(const struct json_token *t)
{
	return (struct slice){t->raw.p + 1, t->raw.n - 2};
}

/* Writes the characters of a string or key to `out`, never more bytes than json_inside has. NULL:
 * only counts them. Returns their bytes. */
static size_t
json_unescape(char *out, const struct json_token *t)
{
	struct slice in = json_inside(t);
	size_t n = 0, len;
	char c[4];

	for (size_t i = 0; i < in.n; n += len) {
		i += json_char(in.p + i, in.n - i, c, &len);
		if (out != NULL)
			memcpy(out + n, c, len);
	}
	wipe(c, sizeof c);
	return n;
}

/* Does a string or key spell this name, in whatever way it is escaped? `loosely`: would a lax
 * reader take it for the name? Go's encoding/json ignores case, and folds two letters from outside
 * ASCII too: the long s and the Kelvin sign. A reader that keeps C strings ends the name at a
 * NUL. */
static bool
json_spells(const struct json_token *t, struct slice name, bool loosely)
{
	struct slice in = json_inside(t);
	size_t at = 0, len;
	char c[4];

	if (!t->escaped && !loosely)
		return slice_eq(in, name);
	for (size_t i = 0; i < in.n; at += len) {
		i += json_char(in.p + i, in.n - i, c, &len);
		if (loosely && len == 2 && memcmp(c, "\xc5\xbf", 2) == 0)
			c[0] = 's', len = 1;
		else if (loosely && len == 3 && memcmp(c, "\xe2\x84\xaa", 3) == 0)
			c[0] = 'k', len = 1;
		else if (loosely && len == 1 && c[0] == '\0')
			break;
		for (size_t k = 0; k < len; k++)
			if (at + k >= name.n || (c[k] != name.p[at + k] &&
			    !(loosely && ascii_lower(c[k]) == ascii_lower(name.p[at + k]))))
				return false;
	}
	return at == name.n;
}

/* A string that may be shown: control characters (C0, DEL, C1) are dropped. `out` has room for
 * JSON_STRING_MAX bytes. Returns the bytes written; SIZE_MAX: no string, or a longer one. */
static size_t
json_clean_string(char *out, const struct json_token *t)
{
	size_t n = 0, all;

	if (t->type != JSON_STRING || t->raw.n > JSON_STRING_MAX)
		return SIZE_MAX;
	all = json_unescape(out, t);
	for (size_t i = 0; i < all; i++) {
		if (out[i] == '\xc2' && (unsigned char)out[i + 1] < 0xa0)
			i++;
		else if ((unsigned char)out[i] >= 0x20 && out[i] != 0x7f)
			out[n++] = out[i];
	}
	return n;
}

enum json_number { JSON_NOT_A_NUMBER, JSON_INTEGER, JSON_REAL };

/* Reads text that is one JSON number and nothing else. JSON_INTEGER: the number has neither
 * fraction nor exponent, and fits. */
static enum json_number
json_number(struct slice in, int64_t *integer, double *real)
{
	char text[JSON_NUMBER_MAX + 1], *end;
	long long v;
	double d;

	if (in.n == 0 || in.n > JSON_NUMBER_MAX || json_number_len(in.p, in.n) != in.n)
		return JSON_NOT_A_NUMBER;
	memcpy(text, in.p, in.n);
	text[in.n] = '\0';
	errno = 0;
	v = strtoll(text, &end, 10);
	if (*end == '\0' && errno == 0) {
		*integer = v;
		return JSON_INTEGER;
	}
	d = strtod(text, &end);
	if (d - d != 0)         /* 1e999 is infinite for us */
		return JSON_NOT_A_NUMBER;
	*real = d;
	return JSON_REAL;
}

/* -- writing */

/* Adds `s` as a string in quotes. False, and the buffer is as before: `s` is not UTF-8. `lossy`
 * puts U+FFFD where a byte is not UTF-8: logs and messages must come out whatever a peer sent. */
static bool
json_put(struct buf *b, struct slice s, bool lossy)
{
	static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
	size_t begin = b->n, n = 0;

	while (n < s.n && s.p[n] >= 0x20 && s.p[n] < 0x7f && s.p[n] != '"' && s.p[n] != '\\')
		n++;
	if (n == s.n)                   /* nothing to escape: nearly always */
		return buf_join(b, (struct slice[]){SLICE("\""), s, SLICE("\"")}, 3);
	buf_add(b, "\"", 1);
	for (size_t i = 0; i < s.n; i += n) {
		unsigned char c = (unsigned char)s.p[i];
		const char *at = c != '\0' ? strchr(from, (char)c) : NULL;

		if ((n = json_utf8(s.p + i, s.n - i)) == 0 && !lossy) {
			buf_cut(b, begin);
			return false;
		}
		if (n == 0) {
			buf_adds(b, "\xef\xbf\xbd");
			n = 1;
		} else if (at != NULL) {
			buf_add(b, (char[]){'\\', to[at - from]}, 2);
		} else if (c < 0x20 || c == 0x7f) {  /* 7f for a terminal's sake */
			buf_addf(b, "\\u00%02x", c);
		} else {
			buf_add(b, s.p + i, n);
		}
	}
	return buf_adds(b, "\"");
}

static void
json_put_member(struct buf *b, struct slice name, struct slice value)
{
	if (value.n != 0 && buf_addv(b, name))
		json_put(b, value, true);
}

static void
json_put_number(struct buf *b, struct slice name, uint64_t value)
{
	if (buf_addv(b, name))
		buf_addu(b, value);
}

/* -- members of the top object: finding and setting them */

/* One member that a caller asks for. */
struct json_member {
	struct slice name;      /* borrowed from the caller */
	bool alone;             /* a key that some readers take for `name` is a duplicate too */
	struct json_token value; /* result; JSON_END: there is none. raw of a container is all of it */
};

enum json_result { JSON_OK, JSON_MALFORMED, JSON_NOT_OBJECT, JSON_DUPLICATE };
static const char *const json_codes[] = {NULL, "malformed", "not_object", "duplicate"};

/* Finds members of the top object. The whole text is read and must be JSON. A wanted name that
 * comes twice is refused, since readers that take the first and readers that take the last would
 * disagree. */
static enum json_result
json_members(struct slice text, struct json_member *m, size_t n)
{
	struct json_member *w = NULL;
	enum json_result res = JSON_OK;
	struct json_reader r;
	struct json_token t;

	for (size_t i = 0; i < n; i++)
		m[i].value = (struct json_token){.type = JSON_END};
	json_open(&r, text);
	if (json_next(&r, &t) != JSON_OBJECT)
		res = t.type == JSON_BAD ? JSON_MALFORMED : JSON_NOT_OBJECT;
	while (t.type != JSON_END) {
		if (json_next(&r, &t) == JSON_BAD)
			return JSON_MALFORMED;
		if (t.depth != 1 || res != JSON_OK)
			continue;
		if (t.type == JSON_KEY) {
			w = NULL;
			for (size_t i = 0; i < n && w == NULL; i++) {
				if (json_spells(&t, m[i].name, false))
					w = &m[i];
				else if (m[i].alone && json_spells(&t, m[i].name, true))
					res = JSON_DUPLICATE;
			}
			if (w != NULL && w->value.type != JSON_END)
				res = JSON_DUPLICATE;
		} else if (w != NULL && t.type == JSON_CLOSE) {
			w->value.raw.n = (size_t)(t.raw.p + 1 - w->value.raw.p);
		} else if (w != NULL) {
			w->value = t;
		}
	}
	return res;
}

/* Where a member of the top object is to be written: the bytes of its value, or, where there is
 * none yet, the place behind the brace. */
struct json_spot {
	size_t at, cut;
	bool found, alone;      /* alone: the object is empty */
};

/* A name that stands there twice, or spelled so that only some readers take it for the name, is
 * refused: whichever we replaced, a server could read the other. */
static enum json_result
json_find_spot(struct slice text, struct slice name, struct json_spot *spot)
{
	struct json_member m = {.name = name, .alone = true};
	enum json_result res;
	struct json_reader r;
	struct json_token t;

	*spot = (struct json_spot){.found = false};
	json_open(&r, text);
	json_next(&r, &t);
	spot->at = r.at;                /* if it is an object, which json_members tells */
	spot->alone = json_next(&r, &t) == JSON_CLOSE;
	res = json_members(text, &m, 1);
	if ((spot->found = m.value.type != JSON_END)) {
		spot->at = (size_t)(m.value.raw.p - text.p);
		spot->cut = m.value.raw.n;
	}
	return res;
}

/* Adds the text with that member set to a string, every other byte as it was. False, and the buffer
 * is not bad: name or value is not UTF-8. */
static bool
json_splice(struct buf *out, struct slice text, const struct json_spot *spot, struct slice name,
    struct slice value)
{
	size_t from = spot->at + spot->cut;

	buf_add(out, text.p, spot->at);
	if (!spot->found && (!json_put(out, name, false) || !buf_adds(out, ":")))
		return false;
	if (!json_put(out, value, false))
		return false;
	if (!spot->found && !spot->alone)
		buf_adds(out, ",");
	return buf_add(out, text.p + from, text.n - from);
}

/* ---- subst -----------------------------------------------------------------
 * Rows: where the sandbox wrote a placeholder, the secret goes out, escaped for where it stands;
 * every other byte stays. A row names its place, for the agent must not choose one that comes back:
 * an Origin that CORS repeats, a member that is stored and read again.
 *
 * Invariants. Pure: results lie in a buf that the caller bounds, and bufs wipe what they held.
 * Bytes are compared and replaced by one pass, so a secret that holds a placeholder is not searched
 * again. Skip it unless you ask where a placeholder may turn into a secret. */
#define SUBST_ROWS_MAX 64       /* of one request, one a text and place: a bit each */
#define SUBST_TEXT_MAX (32 * 1024) /* their placeholders and names: 512 bytes each */
#define SUBST_GROW_MAX (1024 * 1024) /* by as much a body may grow: a thousand keys of 1 KiB */
#define SUBST_AGAIN_MAX 8       /* repeats in a text: the one that finds no room tells a secret's length */
#define SUBST_WS_MAX (32 * 1024) /* a text message that is held: a log-in has 4 KiB */
#define SUBST_WS_OUT_MAX (128 * 1024) /* and what it may become */

/* Where in a request a row may replace a placeholder. */
enum subst_place {
	PLACE_HEADER, PLACE_BASIC, PLACE_QUERY, PLACE_PATH, PLACE_FORM, PLACE_PART, PLACE_JSON,
	    PLACE_WS, PLACES, PLACE_COOKIE = PLACES /* of an answer alone (seal) */
};

struct subst_row {
	struct slice placeholder; /* owned by the subst */
	struct slice name;      /* too: of the field or parameter; or the steps to a member, each with a NUL */
	struct secret *secret;  /* owned */
	enum subst_place place;
	size_t from, to;        /* PLACE_PATH, PLACE_PART: these bytes. Of a seal: the row; the group, 0: optional */
	/* not 0: nothing else is attached in the field or pair of that name. Of a seal: tells its row's end */
	int64_t locked;
	bool jwt;               /* of a seal: header and claims may stay */
};

struct subst {
	size_t n;
	struct subst_row row[SUBST_ROWS_MAX];
	struct buf text;        /* owned: placeholders and names */
};

/* How a text spells characters: plain, percent-encoded or with JSON's escapes. */
struct subst_code {
	char escape;            /* begins what is longer than a byte; '\0': nothing does */
	enum pct mode;          /* of '%' */
};

/* The values that rows point at, in the order of the text. */
struct subst_spots {
	const struct subst *s;
	size_t n;
	bool over;              /* there were more */
	uint64_t empty;         /* bit i: row i points into a list that has no elements */
	struct subst_spot {
		struct json_token value; /* borrowed; PLACE_JSON: as it was read; else raw is all of it */
		enum subst_place place;
		uint64_t rows;          /* bit i: row i points here */
		struct http_field *field; /* borrowed: the value is a part of this one's; NULL: of a text */
	} spot[SUBST_ROWS_MAX];
};

/* A run over one text. The bytes of `in` before `from` have been copied to `out`, or replaced
 * there. With `spots` nothing is replaced: all values of all rows' places are noted. */
struct subst_run {
	const struct subst *s;
	uint64_t rows;          /* bit i: row i is looked for, here */
	struct slice in;        /* borrowed */
	struct buf *out;        /* borrowed; untouched while nothing was found */
	size_t from;
	uint64_t hits;          /* bit i: row i was found */
	unsigned again;         /* how often rows in `hits` were found once more */
	struct slice sent[SUBST_ROWS_MAX]; /* borrowed from `in`: as the client wrote it, the first time */
	struct subst_spots *spots; /* borrowed, or NULL */
	struct subst_turns *turns; /* borrowed; NULL: a text is read at once */
};

static void
subst_free(struct subst *s)
{
	if (s == NULL)
		return;
	for (size_t i = 0; i < s->n; i++)
		secret_unref(s->row[i].secret);
	buf_free(&s->text);
	free(s);
}

/* Does any row have one of these places (bit i: enum subst_place)? */
static bool
subst_places(const struct subst *s, unsigned places)
{
	for (size_t i = 0; s != NULL && i < s->n; i++)
		if ((places >> s->row[i].place & 1) != 0)
			return true;
	return false;
}

/* The rows for the place and name, as bits. Names of fields ignore case (RFC 9110 5.1), all others
 * do not. */
static uint64_t
subst_rows(const struct subst *s, enum subst_place place, struct slice name)
{
	uint64_t rows = 0;

	for (size_t i = 0; i < s->n; i++)
		if (s->row[i].place == place && (place == PLACE_HEADER ?
		    slice_eq_nocase(s->row[i].name, name) : slice_eq(s->row[i].name, name)))
			rows |= (uint64_t)1 << i;
	return rows;
}

/* Notes a value that these rows point at. */
static void
subst_note(struct subst_spots *c, uint64_t rows, struct json_token value, enum subst_place place, struct http_field *field)
{
	if (rows == 0)
		return;
	c->over |= c->n == COUNT(c->spot);
	if (!c->over)
		c->spot[c->n++] = (struct subst_spot){value, place, rows, field};
}

static const struct subst_code subst_plain = {'\0', PCT_NONE}, subst_path = {'%', PCT_SEGMENT},
    subst_form = {'%', PCT_QUERY}, subst_json = {'\\', PCT_NONE};

/* Reads the character at in.p[i], of *len bytes, into `out`. Returns the bytes read, at least 1. */
static size_t
subst_get(const struct subst_code *code, struct slice in, size_t i, char out[4], size_t *len)
{
	size_t used;

	if (code->escape == '\\' && (used = json_char(in.p + i, in.n - i, out, len)) != 0)
		return used;
	*len = 1;
	return pct_next(in, i, code->mode, out);
}

/* Adds a value, spelled for its place. If it has no such spelling, the buffer is bad from then
 * on. */
static void
subst_put(const struct subst_code *code, struct buf *b, struct slice value)
{
	size_t at = b->n;

	if (code->escape == '%') {
		pct_put(b, value, code->mode);
	} else if (code->escape == '\0') {
		buf_addv(b, value);
	} else if (json_put(b, value, false)) {
		memmove(b->p + at, b->p + at + 1, b->n - at - 2);       /* without its quotes */
		buf_cut(b, b->n - 2);
	} else {
		b->bad = true;
	}
}

/* The bytes at in.p[at] that spell `want`, or 0. */
static size_t
subst_match(const struct subst_code *code, struct slice in, size_t at, struct slice want)
{
	size_t i = at, done = 0, len;
	char c[4];

	while (done < want.n) {
		if (i >= in.n)
			return 0;
		i += subst_get(code, in, i, c, &len);
		if (len == 0 || len > want.n - done || memcmp(c, want.p + done, len) != 0)
			return 0;
		done += len;
	}
	return i - at;
}

/* Does `want` stand anywhere in `in`, in that spelling? */
static bool
subst_has(const struct subst_code *code, struct slice in, struct slice want)
{
	size_t len;
	char c[4];

	if (code->escape == '\0' || want.n == 0)
		return slice_has(in, want);
	for (size_t i = 0; i < in.n; i += in.p[i] == code->escape ? subst_get(code, in, i, c, &len) : 1)
		if (subst_match(code, in, i, want) != 0)
			return true;
	return false;
}

/* The row whose placeholder stands at in.p[i], the longest of several, in *used bytes. -1: none.
 * All rows are compared in one reading: an agent knows its placeholders, and could send 16 MiB of
 * how they begin. */
static int
subst_row_at(const struct subst_run *t, const struct subst_code *code, struct slice in, size_t i,
    size_t *used)
{
	size_t at = i, done = 0, len = 0, best = 0;
	uint64_t alive = t->rows;               /* bit k: row k fits so far */
	int row = -1;
	char c[4];

	for (; alive != 0 && at < in.n; done += len) {
		at += subst_get(code, in, at, c, &len);
		if (len == 0)
			break;
		for (uint64_t left = alive; left != 0; left &= left - 1) {
			int k = __builtin_ctzll(left);
			const struct subst_row *r = &t->s->row[k];
			const char *want = r->placeholder.p + done;

			if (want[0] != c[0] || len > r->placeholder.n - done || memcmp(want, c, len) != 0) {
				alive &= ~((uint64_t)1 << k);
			} else if (done + len == r->placeholder.n) {
				alive &= ~((uint64_t)1 << k);
				if (r->placeholder.n > best) {
					best = r->placeholder.n;
					*used = at - i;
					row = k;
				}
			}
		}
	}
	return row;
}

/* Replaces placeholders in bytes [i, end) of the text. The buffer is bad from then on if there is
 * no room, a value cannot be written there, or placeholders were repeated more than SUBST_AGAIN_MAX
 * times. */
static void
subst_range(struct subst_run *t, const struct subst_code *code, size_t i, size_t end)
{
	struct slice in = {t->in.p, end};
	bool first[256] = {false};              /* of a placeholder: its first byte */
	size_t used, len;
	char c[4];

	for (uint64_t left = t->rows; left != 0; left &= left - 1)
		first[(unsigned char)t->s->row[__builtin_ctzll(left)].placeholder.p[0]] = true;
	while (t->rows != 0 && i < end && buf_ok(t->out)) {
		size_t step = 1;
		int row = -1;

		c[0] = in.p[i];
		if (in.p[i] == code->escape)
			step = subst_get(code, in, i, c, &len);
		if (first[(unsigned char)c[0]])
			row = subst_row_at(t, code, in, i, &used);
		if (row < 0) {
			i += step;
			continue;
		}
		buf_add(t->out, t->in.p + t->from, i - t->from);
		subst_put(code, t->out, secret_slice(t->s->row[row].secret));
		if ((t->hits >> row & 1) == 0)
			t->sent[row] = (struct slice){in.p + i, used};
		else
			t->out->bad |= ++t->again > SUBST_AGAIN_MAX;
		t->hits |= (uint64_t)1 << row;
		i = t->from = i + used;
	}
}

/* Copies the rest of the text, if anything was found. */
static void
subst_end(struct subst_run *t)
{
	if (t->hits != 0)
		buf_add(t->out, t->in.p + t->from, t->in.n - t->from);
	t->from = t->in.n;
}

static void
subst_all(struct subst_run *t, const struct subst_code *code)
{
	subst_range(t, code, 0, t->in.n);
	subst_end(t);
}

/* A field's value as it stands; for rows of PLACE_BASIC the "user:password" of Basic in
 * Authorization (RFC 7617 2). */
static void
subst_header(struct subst_run *t, struct slice name)
{
	struct subst_run inner;
	struct buf plain, now;

	t->rows = subst_rows(t->s, PLACE_HEADER, name);
	subst_all(t, &subst_plain);
	t->rows = subst_rows(t->s, PLACE_BASIC, SLICE(""));
	if (t->hits != 0 || t->rows == 0 || !slice_eq_nocase(name, SLICE("authorization")))
		return;
	buf_init(&now, t->out->max);
	inner = *t;
	inner.out = &now;
	inner.from = 0;
	if (http_basic(t->in, &plain)) {
		inner.in = buf_slice(&plain);
		subst_all(&inner, &subst_plain);
	}
	if ((t->hits = inner.hits) != 0) {
		buf_add(t->out, t->in.p, 6);
		buf_base64(t->out, buf_slice(&now), false);
	}
	t->out->bad |= now.bad;
	buf_free(&plain);
	buf_free(&now);
}

/* -- the path, and the parts of a form: rows say which bytes, in the order of the text */

static void
subst_spans(struct subst_run *t, enum subst_place place)
{
	for (size_t i = 0; i < t->s->n; i++) {
		const struct subst_row *row = &t->s->row[i];
		struct slice until = {t->in.p, row->to};

		t->rows = (uint64_t)1 << i;
		if (row->place != place || row->from < t->from || row->to > t->in.n || row->from >= row->to)
			continue;
		/* whole in a path: a "%2F" beside it would be another place for who decodes before
		 * they part */
		if (place != PLACE_PATH)
			subst_range(t, &subst_plain, row->from, row->to);
		else if (subst_match(&subst_path, until, row->from, row->placeholder) == row->to - row->from)
			subst_range(t, &subst_path, row->from, row->to);
	}
	subst_end(t);
}

/* How far the open arrays and objects lie on the way to each row's member. */
struct subst_walk {
	enum subst_place place;
	struct json_token key;  /* of the value that comes */
	size_t index[JSON_DEPTH_MAX + 1]; /* of the next value of the array at this depth */
	uint8_t met[SUBST_ROWS_MAX], most[SUBST_ROWS_MAX]; /* steps: now; ever */
	bool twice;             /* a step was met twice: which of them counts is the server's choice */
};

/* A text that is read in turns of so many tokens or pairs. */
struct subst_turns {
	unsigned left;          /* in this turn */
	bool more;              /* it is not read to its end */
	size_t at;              /* of JSON Lines, the line that is read; of a form, the next pair */
	struct subst_walk walk;
	struct json_reader reader;
};

/* -- query, and a form of pairs */

static void
subst_pairs(struct subst_run *t, enum subst_place place)
{
	size_t at = t->turns != NULL ? t->turns->at : 0;
	struct slice pair, raw, value;
	char name[256];

	while (!(t->turns != NULL && (t->turns->more = t->turns->left-- == 0)) && pair_next(t->in, &at, PAIR_AMP, &pair, &raw)) {
		value = pair_value(pair, raw);
		t->rows = subst_rows(t->s, place, pair_name(raw, name, sizeof name));
		if (t->spots != NULL)
			subst_note(t->spots, t->rows, (struct json_token){.raw = value}, place, NULL);
		/* some servers part pairs at ";" too, and what stands behind it has another name
		 * there */
		else if (t->rows != 0 && value.n != 0 && memchr(value.p, ';', value.n) == NULL)
			subst_range(t, &subst_form, (size_t)(value.p - t->in.p), (size_t)(value.p - t->in.p) + value.n);
	}
	if (t->turns != NULL)
		t->turns->at = at;
	subst_end(t);
}

/* -- bodies, by Content-Type */
enum subst_kind { SUBST_OTHER, SUBST_JSON, SUBST_LINES, SUBST_FORM, SUBST_PARTS };

/* How a body of this Content-Type is read (RFC 9110 8.3.1); "+json" is RFC 6839 3.1's suffix. */
static enum subst_kind
subst_kind_of(struct slice type)
{
	static const struct { struct slice type; enum subst_kind kind; } kinds[] = {
		{SLICE("application/json"), SUBST_JSON}, {SLICE("text/json"), SUBST_JSON},
		{SLICE("application/x-ndjson"), SUBST_LINES}, {SLICE("application/jsonl"), SUBST_LINES},
		{SLICE("application/x-www-form-urlencoded"), SUBST_FORM},
		{SLICE("multipart/form-data"), SUBST_PARTS},
	};

	type = http_trim(slice_until(type, ';'));
	for (size_t i = 0; i < COUNT(kinds); i++)
		if (slice_eq_nocase(type, kinds[i].type))
			return kinds[i].kind;
	return type.n > 5 && slice_eq_nocase((struct slice){type.p + type.n - 5, 5}, SLICE("+json")) ?
	    SUBST_JSON : SUBST_OTHER;
}

/* The reference token of a row's JSON Pointer (RFC 6901 4) at this depth; .p NULL: the pointer is
 * shorter. */
static struct slice
subst_step(const struct subst_row *row, unsigned depth)
{
	for (struct slice left = row->name; left.n != 0; depth--) {
		struct slice step = slice_cut(&left, '\0');

		if (depth == 0)
			return step;
	}
	return (struct slice){NULL, 0};
}

/* A value begins: sets t->rows to the rows whose member it is. */
static void
subst_step_into(struct subst_run *t, struct subst_walk *w, const struct json_token *v, bool in_array)
{
	char text[24];
	struct slice number = {text, 0};
	bool lax = t->spots != NULL;    /* "*" is any element; and a name that some reader takes for the step */

	if (in_array)
		number.n = (size_t)snprintf(text, sizeof text, "%zu", w->index[v->depth]++);
	t->rows = 0;
	for (size_t k = 0; v->depth != 0 && k < t->s->n; k++) {
		const struct subst_row *row = &t->s->row[k];
		struct slice step;

		if (row->place != w->place || w->met[k] != v->depth - 1)
			continue;
		step = subst_step(row, v->depth - 1);
		if (step.p == NULL || !(in_array ? (lax && step.n == 1 && step.p[0] == '*') || slice_eq(step, number) :
		    json_spells(&w->key, step, lax)))
			continue;
		w->twice |= w->most[k] >= v->depth;
		w->most[k] = (uint8_t)(w->most[k] > v->depth ? w->most[k] : v->depth);
		if (v->type == JSON_OBJECT || v->type == JSON_ARRAY)
			w->met[k] = (uint8_t)v->depth;
		if (subst_step(row, v->depth).p == NULL)
			t->rows |= (uint64_t)1 << k;
	}
}

/* One JSON text at [at, end): replaces in the strings that rows point at, however they are escaped.
 * False: malformed, or a replaced member that stands there twice. */
static bool
subst_json_text(struct subst_run *t, enum subst_place place, size_t at, size_t end)
{
	struct subst_walk w = {.place = place};
	struct subst_turns *turns = t->turns;
	struct json_reader r;
	struct json_token token;
	bool more = false;

	json_open(&r, (struct slice){t->in.p + at, end - at});
	if (turns != NULL && turns->more)
		w = turns->walk, r = turns->reader;
	while (!(more = turns != NULL && turns->left-- == 0) && json_next(&r, &token) != JSON_BAD && token.type != JSON_END) {
		size_t i = (size_t)(token.raw.p - t->in.p) + 1;

		if (token.type == JSON_KEY) {
			w.key = token;
			continue;
		}
		if (token.type == JSON_CLOSE) {
			for (size_t k = 0; token.depth != 0 && k < t->s->n; k++)
				w.met[k] -= w.met[k] == token.depth;
			continue;
		}
		subst_step_into(t, &w, &token, token.depth != 0 && (r.objects >> (token.depth - 1) & 1) == 0);
		if (token.type == JSON_ARRAY)
			w.index[token.depth + 1] = 0;
		if (t->spots != NULL) {
			struct json_reader peek = r;
			struct json_token first;

			subst_note(t->spots, t->rows, token, place, NULL);
			if (token.type == JSON_ARRAY && json_next(&peek, &first) == JSON_CLOSE)
				for (size_t k = 0; k < t->s->n; k++)
					if (w.met[k] == token.depth && slice_eq(subst_step(&t->s->row[k], token.depth), SLICE("*")))
						t->spots->empty |= (uint64_t)1 << k;
		} else if (token.type == JSON_STRING)
			subst_range(t, &subst_json, i, i + token.raw.n - 2);
	}
	if (turns != NULL)
		turns->walk = w, turns->reader = r, turns->more = more;
	return more || (token.type == JSON_END && !(w.twice && t->hits != 0));
}

/* JSON Lines: one JSON text a line; empty lines are skipped. */
static bool
subst_json_lines(struct subst_run *t)
{
	for (size_t at = t->turns != NULL ? t->turns->at : 0, end; at < t->in.n; at = end + 1) {
		end = at + slice_until((struct slice){t->in.p + at, t->in.n - at}, '\n').n;
		if (end > at && !(end == at + 1 && t->in.p[at] == '\r') && !subst_json_text(t, PLACE_JSON, at, end))
			return false;
		if (t->turns != NULL && t->turns->more) {
			t->turns->at = at;
			break;
		}
	}
	return true;
}

/* False: the body is not what its Content-Type says. */
static bool
subst_body(struct subst_run *t, enum subst_kind kind)
{
	bool well = true;

	switch (kind) {
	case SUBST_OTHER: return true;
	case SUBST_JSON:  well = subst_json_text(t, PLACE_JSON, 0, t->in.n); break;
	case SUBST_LINES: well = subst_json_lines(t); break;
	case SUBST_FORM:  subst_pairs(t, PLACE_FORM); break;
	case SUBST_PARTS: subst_spans(t, PLACE_PART); break;
	}
	if (well)
		subst_end(t);
	return well;
}

/* ---- scrub -----------------------------------------------------------------
 * The way back: an answer must not repeat what was attached to its request. The search finds each
 * value in one coding of the whole (itself, hexadecimal, Base64 in both alphabets at its three
 * alignments), whose characters are escaped or not in one of percent, percent twice, JSON and HTML.
 *
 * How. The first SCRUB_LEAD characters of every such spelling are cut into groups of four, the grams.
 * Where the first characters are not escaped, one gram in every `step` bytes of the text is enough to meet
 * the spelling; else its first escape is, with the three characters behind it, or of a run of escapes one in
 * every few (scrub_far). A gram that is known names the value, the form and the place within it: only there
 * is the text compared, byte by byte.
 *
 * Invariants. A hit was compared whole, so nothing else is ever replaced. The cost does not grow with
 * the number of values. The grams tell parts of secrets: they lie in the arena. Skip it unless you ask
 * what an answer can show of a secret. */
#define SCRUB_VALUES_MAX 64     /* values of one request to look for in its answer */
#define SCRUB_HEAD_MIN 8        /* bytes: a shorter value may be any word */
#define SCRUB_BODY_MIN 16       /* in a body, unless a machine made the value */
#define SCRUB_GRAM 4            /* characters */
#define SCRUB_LEAD 16           /* the first characters, by which a spelling is met */
#define SCRUB_BLOOM_BITS 14
#define SCRUB_SLOT_BITS 10
#define SCRUB_FREE 32           /* characters that may be compared for each byte of text … */
#define SCRUB_DEBT_MAX (1 << 18) /* … and so many more, or a secret with a period could cost any time: 4 ms for 16 KiB */
#define SCRUB_TABLES_MAX (4 << 20) /* bytes of tables, in the arena: beyond them no further decision is kept, which would keep its own */
#define SCRUB_MADE 256          /* places for tables that are there for the next request with the same values … */
#define SCRUB_MADE_MS 60000     /* … which are freed so long after their last use */
#define SCRUB_GROWTH_MAX (1 << 20) /* bytes by which placeholders may lengthen a body */
#define SCRUB_UNIT_MAX 20       /* bytes of the longest escape: HTML's &DiacriticalGrave; has 18 */
#define SCRUB_USUAL_MAX 8       /* bytes of the longest that is passed over in a run: &#x0041; */

enum scrub_form { SCRUB_PLAIN, SCRUB_PLUS, SCRUB_HEX, SCRUB_STD, SCRUB_URL = SCRUB_STD + 3, SCRUB_FORMS = SCRUB_URL + 3 };
enum scrub_coding { SCRUB_RAW, SCRUB_PERCENT, SCRUB_TWICE, SCRUB_JSON, SCRUB_HTML, SCRUB_CODINGS };

/* A form writes `bits` of the value a character, beginning at the value's bit `lead`. Base64 behind 1 or 2
 * bytes of a group of three begins with a character that has bits of these bytes, too: it is no part of the
 * form, nor is such a character at the end (scrub_widen). PLUS is PLAIN with "+" for spaces, as forms have it. */
static const struct { uint8_t bits, lead; const char *abc; } scrub_forms[SCRUB_FORMS] = {
    {8, 0, NULL}, {8, 0, NULL}, {4, 0, "0123456789abcdef"},
    {6, 0, b64_std}, {6, 4, b64_std}, {6, 2, b64_std}, {6, 0, b64_url}, {6, 4, b64_url}, {6, 2, b64_url}};

static const char scrub_escape[SCRUB_CODINGS] = {'\0', '%', '%', '\\', '&'};

/* Names of characters that HTML gives to ASCII's (the standard's "Named character references"), the frequent ones
 * first: the character, the length of its name, the name. */
static const char scrub_names[] =
    "<\003lt;>\003gt;&\004amp;\"\005quot;'\005apos;\t\004Tab;\n\010NewLine;!\005excl;\"\005QUOT;"
    "#\004num;$\007dollar;%\007percnt;&\004AMP;(\005lpar;)\005rpar;*\004ast;*\007midast;+\005plus;"
    ",\006comma;.\007period;/\004sol;:\006colon;;\005semi;<\003LT;=\007equals;>\003GT;?\006quest;"
    "@\007commat;[\005lsqb;[\007lbrack;\\\005bsol;]\005rsqb;]\007rbrack;^\004Hat;_\007lowbar;"
    "_\011UnderBar;`\006grave;`\021DiacriticalGrave;{\005lcub;{\007lbrace;|\007verbar;|\005vert;"
    "|\015VerticalLine;}\005rcub;}\007rbrace;";

struct scrub_value {
	struct secret *secret;  /* owned */
	struct slice value;     /* in `secret` */
	struct slice sent;      /* in `text`; .p NULL: nothing; we added the parameter `name` */
	struct slice name;      /* in `text`, as we wrote the parameter's name; empty: no parameter */
	char *text;             /* owned */
	bool made;              /* a machine made it: no word, short as it may be */
};

struct scrub_gram {
	uint32_t key;
	uint16_t next;          /* in the same slot: index + 1; 0: none */
	uint8_t value, form, at;
};

/* The contents of a secret. */
struct scrub_table {
	uint32_t n, ngrams, step; /* ngrams: room for so many */
	uint16_t nstarts, start[256]; /* by the byte with which a form of a value begins: the first in scrub_starts + 1; 0: none */
	uint64_t lead[4];       /* the characters in grams, upper case as lower: a bit each */
	uint64_t names;         /* the first two letters of HTML's names for these: a bit each (scrub_name) */
	uint64_t pairs[64];     /* the first two characters of grams, of each six bits (scrub_fold): a bit each */
	bool runs[SCRUB_CODINGS]; /* of a run of escapes not each is tried (scrub_far) */
	uint8_t of[32];         /* SHA-256 of the values and their places */
	uint64_t bloom[(1 << SCRUB_BLOOM_BITS) / 64];
	uint16_t slot[1 << SCRUB_SLOT_BITS]; /* index + 1 */
	struct scrub_gram gram[];
};

struct scrub {
	struct secret *head, *body; /* owned references: tables, or NULL until they are needed */
	int64_t debt;           /* characters compared beyond SCRUB_FREE for each byte of text */
	size_t n, cap;
	struct scrub_value *value; /* owned */
	size_t whose;           /* a hash of agent and credential */
	unsigned sealed;        /* the first so many were made by the answer itself: no hits */
};

/* A search through a text, from left to right. */
struct scrub_scan {
	struct scrub *s;
	const struct scrub_table *t; /* NULL: there is nothing to look for */
	struct slice in;
	bool end;               /* the text is whole: no spelling goes on behind it */
	size_t at;              /* the next spelling begins here or later */
	size_t sample;          /* the next gram that is looked at */
	size_t escape[SCRUB_CODINGS]; /* the next escape that may be in a gram; in.n: none. PERCENT's is TWICE's, too */
	size_t begun;           /* a spelling begins here that the text does not end; in.n: none */
};

struct scrub_hit {
	size_t at, n;           /* bytes of the text */
	unsigned value, form, coding;
};

static size_t scrub_tables;     /* bytes of all tables */
static struct { struct secret *table; int64_t used; } scrub_made[SCRUB_MADE]; /* by the values' hash */

static void
scrub_drop_table(struct secret **table)
{
	scrub_tables -= *table != NULL && (*table)->refs == 1 ? (*table)->n : 0;
	secret_drop(table);
}

/* Frees the tables that no decision or request has, once these had time to make use of them again, or all such
 * (`moved`: the store has other values). Called each second. */
static void
scrub_sweep(bool moved)
{
	for (size_t i = 0; i < SCRUB_MADE; i++)
		if (scrub_made[i].table != NULL && scrub_made[i].table->refs == 1 && (moved || clock_now() - scrub_made[i].used > SCRUB_MADE_MS))
			scrub_drop_table(&scrub_made[i].table);
}

static void
scrub_free(struct scrub *s)
{
	if (s == NULL)
		return;
	for (size_t i = 0; i < s->n; i++) {
		secret_unref(s->value[i].secret);
		free(s->value[i].text);
	}
	scrub_drop_table(&s->head);
	scrub_drop_table(&s->body);
	free(s->value);
	free(s);
}

/* Adds the bytes of a secret from `skip` on. `made`: by a machine. Of two with one value the first stays.
 * False: no memory, or too many. */
static bool
scrub_add(struct scrub **list, struct secret *secret, size_t skip, struct slice sent, struct slice name, bool made)
{
	struct slice value = {secret_slice(secret).p + skip, secret->n - skip};
	struct scrub *s = *list;
	struct scrub_value *v;

	if (value.n < SCRUB_HEAD_MIN)
		return true;
	if (s == NULL && (s = *list = calloc(1, sizeof *s)) == NULL)
		return false;
	for (size_t i = 0; i < s->n; i++)
		if (slice_eq(s->value[i].value, value)) {
			if (made && !s->value[i].made)
				scrub_drop_table(&s->body);
			s->value[i].made |= made;
			return true;
		}
	if (s->n == SCRUB_VALUES_MAX)
		return false;
	if (s->n == s->cap) {
		if ((v = realloc(s->value, 2 * (s->cap + 2) * sizeof *v)) == NULL)
			return false;
		s->value = v;
		s->cap = 2 * (s->cap + 2);
	}
	v = &s->value[s->n];
	*v = (struct scrub_value){.value = value, .text = malloc(sent.n + name.n + 1), .made = made};
	if (v->text == NULL)
		return false;
	if (sent.n != 0)
		memcpy(v->text, sent.p, sent.n);
	if (name.n != 0)
		memcpy(v->text + sent.n, name.p, name.n);
	v->sent = (struct slice){sent.p != NULL ? v->text : NULL, sent.n};
	v->name = (struct slice){v->text + sent.n, name.n};
	v->secret = secret_ref(secret);
	scrub_drop_table(&s->head);
	scrub_drop_table(&s->body);
	s->n++;
	return true;
}

/* Adds all values of another list, which may be NULL. */
static bool
scrub_join(struct scrub **list, const struct scrub *of)
{
	bool ok = true;

	for (size_t i = 0; of != NULL && i < of->n && ok; i++) {
		const struct scrub_value *v = &of->value[i];

		ok = scrub_add(list, v->secret, (size_t)(v->value.p - v->secret->p), v->sent, v->name, v->made);
	}
	if (*list != NULL && of != NULL)
		(*list)->whose = of->whose;
	return ok;
}

/* The characters that a form has of a value of n bytes. */
static size_t
scrub_count(size_t n, unsigned form)
{
	return (8 * n - scrub_forms[form].lead) / scrub_forms[form].bits;
}

/* The form's character i of a value; behind the value's end, of the same value filled with "*". */
static char
scrub_char(struct slice value, unsigned form, size_t i)
{
	unsigned bits = scrub_forms[form].bits;
	size_t bit = scrub_forms[form].lead + bits * i, at = bit / 8;
	unsigned byte = at < value.n ? (unsigned char)value.p[at] : '*', next = at + 1 < value.n ? (unsigned char)value.p[at + 1] : '*';

	if (form == SCRUB_PLUS && byte == ' ')
		return '+';
	return bits == 8 ? (char)byte : scrub_forms[form].abc[(byte << 8 | next) >> (16 - bits - bit % 8) & ((1u << bits) - 1)];
}

/* Does the text's character stand for the value's? Hexadecimal digits have two cases. */
static bool
scrub_same(struct slice value, unsigned form, size_t i, char c)
{
	char want = scrub_char(value, form, i);

	return c == want || (form == SCRUB_HEX && c >= 'A' && c <= 'F' && (c | 0x20) == want) ||
	    (form == SCRUB_PLUS && c == ' ' && value.p[i] == ' ');
}

/* Four characters as a number. Upper and lower case are one, which costs nothing: a gram is only where
 * the text is compared. */
static uint32_t
scrub_key(const char *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof v);
	return v | 0x20202020;
}

/* Six bits of a character, of upper case as of lower. */
static inline unsigned
scrub_fold(char c)
{
	return (c >> 1 & 32) | (c & 31);
}

static uint32_t
scrub_hash(uint32_t key)
{
	return key * 0x9e3779b1 >> (32 - SCRUB_BLOOM_BITS);
}

/* The first characters of all forms, behind the grams' place. */
static struct scrub_gram *
scrub_starts(const struct scrub_table *t)
{
	return (struct scrub_gram *)(uintptr_t)t->gram + t->ngrams;
}

static void
scrub_table_start(struct scrub_table *t, unsigned v, unsigned form, char first)
{
	scrub_starts(t)[t->nstarts] = (struct scrub_gram){0, t->start[(uint8_t)first], (uint8_t)v, (uint8_t)form, 0};
	t->start[(uint8_t)first] = ++t->nstarts;
}

static void
scrub_table_add(struct scrub_table *t, struct slice value, unsigned v, unsigned form)
{
	size_t n = scrub_count(value.n, form);
	char lead[SCRUB_LEAD];

	if (n > sizeof lead)
		n = sizeof lead;
	for (size_t i = 0; i < n; i++) {
		lead[i] = scrub_char(value, form, i);
		t->lead[(lead[i] | 0x20) >> 6 & 3] |= (uint64_t)1 << ((lead[i] | 0x20) & 63);
	}
	if (t->step > n - 6)
		t->step = (uint32_t)n - 6;
	scrub_table_start(t, v, form, lead[0]);
	if (form == SCRUB_HEX && lead[0] >= 'a')
		scrub_table_start(t, v, form, lead[0] & ~0x20);
	if (form == SCRUB_PLUS && lead[0] == '+')
		scrub_table_start(t, v, form, ' ');
	for (size_t i = 0; i + SCRUB_GRAM <= n; i++) {
		uint32_t key = scrub_key(lead + i), h = scrub_hash(key);
		uint16_t *slot = &t->slot[h >> (SCRUB_BLOOM_BITS - SCRUB_SLOT_BITS)];

		t->bloom[h / 64] |= (uint64_t)1 << h % 64;
		t->pairs[scrub_fold(lead[i])] |= (uint64_t)1 << scrub_fold(lead[i + 1]);
		t->gram[t->n] = (struct scrub_gram){key, *slot, (uint8_t)v, (uint8_t)form, (uint8_t)i};
		*slot = (uint16_t)++t->n;
	}
	wipe(lead, sizeof lead);
}

/* Is the form's text another one than that of the form before it that it may equal? */
static bool
scrub_form_own(struct slice value, unsigned form)
{
	unsigned other = form == SCRUB_PLUS ? SCRUB_PLAIN : form - 3;

	if (form != SCRUB_PLUS && form < SCRUB_URL)
		return true;
	for (size_t i = 0; i < scrub_count(value.n, form); i++)
		if (scrub_char(value, form, i) != scrub_char(value, other, i))
			return true;
	return false;
}

/* Is the value looked for in a head, or in a body? */
static bool
scrub_seeks(const struct scrub_value *v, bool body)
{
	return v->value.n >= (body && !v->made ? SCRUB_BODY_MIN : SCRUB_HEAD_MIN);
}

static inline bool
scrub_leads(const struct scrub_table *t, char c)
{
	return (t->lead[(c | 0x20) >> 6 & 3] >> ((c | 0x20) & 63) & 1) != 0;
}

/* The bit of a name's first two letters. */
static unsigned
scrub_name(const char *p)
{
	return (8u * (unsigned char)p[0] ^ (unsigned char)p[1]) % 64;
}

/* Makes the table of n values, whose places are where[0], where[2] and so on. False: no memory. */
static bool
scrub_table_make(const struct scrub *s, const uint32_t *where, size_t n, struct secret **place)
{
	struct scrub_table *now;
	bool ends = false;      /* has a value a ";", which may end a number behind its last digit? */

	if ((*place = secret_new(sizeof *now + n * SCRUB_FORMS * (SCRUB_LEAD - SCRUB_GRAM + 3) * sizeof now->gram[0])) == NULL)
		return false;
	scrub_tables += (*place)->n;
	now = (struct scrub_table *)(void *)(*place)->p;
	now->ngrams = (uint32_t)n * SCRUB_FORMS * (SCRUB_LEAD - SCRUB_GRAM + 1);
	now->step = SCRUB_LEAD;
	for (size_t i = 0; i < n; i++) {
		ends = ends || memchr(s->value[where[2 * i]].value.p, ';', s->value[where[2 * i]].value.n) != NULL;
		for (unsigned form = 0; form < SCRUB_FORMS; form++)
			if (scrub_form_own(s->value[where[2 * i]].value, form))
				scrub_table_add(now, s->value[where[2 * i]].value, where[2 * i], form);
	}
	for (const char *p = scrub_names; *p != '\0'; p += 2 + p[1])
		now->names |= (uint64_t)scrub_leads(now, *p) << scrub_name(p + 2);
	/* no lead has a character that begins or ends an escape, and but for percent's an escape is one byte of a value */
	for (unsigned k = SCRUB_PERCENT; k < SCRUB_CODINGS; k++)
		now->runs[k] = !scrub_leads(now, scrub_escape[k]) && (k != SCRUB_HTML || !ends) &&
		    (k <= SCRUB_TWICE || (now->lead[2] | now->lead[3]) == 0);
	return true;
}

/* The table of the values that are looked for in heads, or in bodies. *t NULL: there are none, or `s` is NULL.
 * False: no memory. */
static bool
scrub_table(struct scrub *s, bool body, const struct scrub_table **t)
{
	uint32_t where[2 * SCRUB_VALUES_MAX];
	struct slice part[SCRUB_VALUES_MAX + 1];
	size_t n = 0;
	struct secret **place, **made;
	struct scrub_table *now;
	uint8_t of[32];

	*t = NULL;
	if (!body && s != NULL && s->head != NULL) {    /* as for each head */
		*t = (const struct scrub_table *)(void *)s->head->p;
		return true;
	}
	for (unsigned i = 0; s != NULL && i < s->n; i++)
		if (scrub_seeks(&s->value[i], body)) {
			where[2 * n] = i;
			where[2 * n + 1] = (uint32_t)s->value[i].value.n;
			part[++n] = s->value[i].value;
		}
	if (n == 0)
		return true;
	place = n == s->n ? &s->head : &s->body;        /* where bodies are searched for all that heads are, they share it */
	if (*place == NULL) {
		part[0] = (struct slice){(char *)where, 2 * n * sizeof where[0]};
		tls_sha256_join(part, n + 1, of);
		made = &scrub_made[of[0] % SCRUB_MADE].table;
		if (*made != NULL && memcmp(((struct scrub_table *)(void *)(*made)->p)->of, of, sizeof of) == 0)
			*place = secret_ref(*made);
		else if (!scrub_table_make(s, where, n, place))
			return false;
		now = (struct scrub_table *)(void *)(*place)->p;
		memcpy(now->of, of, sizeof of);
		if (*made != *place && scrub_tables <= SCRUB_TABLES_MAX) {
			scrub_drop_table(made);
			*made = secret_ref(*place);
		}
		scrub_made[of[0] % SCRUB_MADE].used = clock_now();
	}
	*t = (const struct scrub_table *)(void *)(*place)->p;
	return true;
}

/* -- characters of a text that may be escaped */

/* The character that has the name, which ends with its ";". '\0': unknown. */
static char
scrub_named(struct slice name)
{
	const char *p = scrub_names;

	while (*p != '\0' && ((size_t)p[1] != name.n || memcmp(p + 2, name.p, name.n) != 0))
		p += 2 + p[1];
	return *p;
}

/* Reads a character, escaped or not: its bytes into `out`, their number into *n. Returns the bytes read; 0:
 * the text may end within an escape. What begins no escape is itself. */
static size_t
scrub_unit(struct slice in, size_t at, unsigned coding, bool end, char out[4], size_t *n)
{
	struct slice rest = {in.p + at, in.n - at};
	size_t used, more = coding == SCRUB_PERCENT ? 3 : coding == SCRUB_TWICE ? 5 : coding == SCRUB_JSON ? 12 : SCRUB_UNIT_MAX;
	bool number;
	unsigned base;
	uint32_t c = 0;

	*n = 1;
	out[0] = rest.p[0];
	if (coding == SCRUB_RAW || rest.p[0] != scrub_escape[coding])
		return 1;
	if (rest.n > more)
		rest.n = more;
	switch (coding) {
	case SCRUB_PERCENT:
	case SCRUB_TWICE:
		used = pct_next(rest, 0, coding == SCRUB_PERCENT ? PCT_URI : PCT_TWICE, out);
		/* "%25" may go on */
		if (!end && rest.n < more && (used == 1 ? rest.n < 3 : used == 3 && rest.p[1] == '2' && rest.p[2] == '5'))
			return 0;
		return used;
	case SCRUB_JSON:
		if ((used = json_char(rest.p, rest.n, out, n)) != 0)
			return used;
		break;
	default:
		number = rest.n > 1 && rest.p[1] == '#';        /* its ";" may lack: WHATWG HTML 13.2.5.80 */
		base = rest.n > 2 && (rest.p[2] | 0x20) == 'x' ? 16 : 10;
		for (used = number ? base == 16 ? 3 : 2 : 1; used < rest.n && rest.p[used] != ';'; used++) {
			unsigned d = (unsigned)hex_digit(rest.p[used]);

			if (number && d >= base)
				break;
			c = c < 0x110000 ? c * base + d : c;
		}
		if (used < rest.n || (number && end)) {
			if (!number)
				*n = (out[0] = scrub_named((struct slice){rest.p + 1, used})) != '\0';
			else
				*n = c == 0 || c >= 0x110000 ? 0 : json_put_utf8(out, c);
			if (*n != 0)
				return used + (used < rest.n && rest.p[used] == ';');
			rest.n = more;
		}
		break;
	}
	*n = 1;
	out[0] = rest.p[0];
	return !end && rest.n < more ? 0 : 1;
}

/* The bytes at in.p[at] that spell the gram's value; 0: they do not; -1: the text ends before that is known.
 * *seen: the bytes that told. */
static ssize_t
scrub_match(struct scrub_scan *z, const struct scrub_gram *gram, unsigned coding, size_t at, size_t *seen)
{
	struct slice value = z->s->value[gram->value].value;
	size_t i = at, done = 0, all = scrub_count(value.n, gram->form), used = 1, n;
	bool same = true;
	char c[4];

	while (same && done < all && i < z->in.n && (used = scrub_unit(z->in, i, coding, z->end, c, &n)) != 0) {
		for (size_t k = 0; same && k < n; k += same, done += same)
			same = done < all && scrub_same(value, gram->form, done, c[k]);
		i += used;
	}
	z->s->debt += done + 1;
	*seen = (used != 0 ? i : z->in.n) - at;
	return !same ? 0 : done == all ? (ssize_t)(i - at) : z->end ? 0 : -1;
}

/* -- the search */

/* The byte of two hexadecimal digits; of other characters, any. */
static inline char
scrub_byte(const char *p)
{
	return (char)(((p[0] & 15) + 9 * (p[0] >> 6 & 1)) * 16 + (p[1] & 15) + 9 * (p[1] >> 6 & 1));
}

/* The bytes of the usual escape that begins at p, of which SCRUB_UNIT_MAX bytes are there; 0: it is none, or another. It
 * is for texts where t->runs: of one whose digits are none, no lead has a part. */
static inline size_t
scrub_usual(unsigned coding, const char *p)
{
	uint64_t v;

	if (coding == SCRUB_JSON)
		return p[1] == 'u' && p[2] == '0' && p[3] == '0' ? 6 : 0;
	if (coding != SCRUB_HTML)
		return p[1] == '2' && p[2] == '5' ? 5 : 3;
	return p[1] == '#' && (v = ascii_eight(p, ';')) != 0 ? (size_t)__builtin_ctzll(v) / 8 + 1 : 0;
}

/* The character of a usual escape of n bytes. */
static inline char
scrub_usual_char(unsigned coding, const char *p, size_t n)
{
	unsigned c = 0, base = (p[2] | 0x20) == 'x' ? 16 : 10;

	if (coding != SCRUB_HTML)
		return scrub_byte(p + n - 2);
	for (size_t i = base == 16 ? 3 : 2; i + 1 < n; i++)
		c = c * base + (p[i] & 15u) + 9 * (p[i] >> 6 & 1u);
	return (char)c;
}

/* May an escape begin at p whose character is in a gram? Told by its first bytes, of which SCRUB_UNIT_MAX are there. */
static inline bool
scrub_may_escape(const struct scrub_table *t, unsigned coding, const char *p)
{
	static const char control[32] = {['b'&31] = '\b', ['f'&31] = '\f', ['n'&31] = '\n', ['r'&31] = '\r', ['t'&31] = '\t'};
	size_t n;

	if (coding == SCRUB_PERCENT && (hex_digit(p[1]) < 0 || hex_digit(p[2]) < 0))
		return false;
	if (coding == SCRUB_JSON && p[1] != 'u')
		return (p[1] >= 'a' || p[1] == '"' || p[1] == '\\' || p[1] == '/') && scrub_leads(t, p[1] < 'a' ? p[1] : control[p[1] & 31]);
	if (coding == SCRUB_HTML && p[1] != '#')
		return (t->names >> scrub_name(p + 1) & 1) != 0;
	if (t->runs[coding])            /* and no value has more than ASCII, but for percent's */
		return (n = scrub_usual(coding, p)) != 0 ? scrub_leads(t, scrub_usual_char(coding, p, n)) : coding == SCRUB_HTML;
	return coding != SCRUB_PERCENT || scrub_leads(t, scrub_byte(p + 1)) || (p[1] == '2' && p[2] == '5');
}

/* May it begin a gram whose first two characters are these? */
static inline bool
scrub_may_pair(const struct scrub_table *t, unsigned coding, const char *p)
{
	size_t n = scrub_usual(coding, p), used = n == 0 || p[n] != *p ? 1 : scrub_usual(coding, p + n);

	return !t->runs[coding] || n == 0 || used == 0 || (t->pairs[scrub_fold(scrub_usual_char(coding, p, n))] >>
	    scrub_fold(used == 1 ? p[n] : scrub_usual_char(coding, p + n, used)) & 1) != 0;
}

/* Where the next escape is looked for, once that at p was tried or may begin no gram. A spelling that begins behind it and
 * whose first escape is passed over has the one at that place in its lead, with a gram: it has no more characters than bytes. */
static inline const char *
scrub_far(const struct scrub_scan *z, unsigned coding, const char *p)
{
	const char c = scrub_escape[coding], *far = p + z->t->step + SCRUB_GRAM - 1;

	if (!z->t->runs[coding] || z->t->step < SCRUB_GRAM || z->in.p + z->in.n - p <= SCRUB_UNIT_MAX ||
	    (ascii_eight(p + 1, c) == 0 && ascii_eight(far - 7, c) == 0))
		return p + 1;
	while (*far != c)
		far--;
	return far > p ? far : p + 1;
}

/* Finds the next such escape from `from` on. Of a text full of others few are looked at: a spelling that began behind one
 * would have in its lead all that the next SCRUB_LEAD bytes have, so none begins before the last that is in no gram. */
static void
scrub_find_escape(struct scrub_scan *z, unsigned coding, size_t from)
{
	const char c = scrub_escape[coding], *p, *end, *far;
	uint64_t v;
	bool may;

	z->escape[coding] = z->in.n;
	if (from >= z->in.n)            /* of an empty text p may be NULL */
		return;
	p = z->in.p + from;
	end = z->in.p + z->in.n;
	for (; p < end; p = scrub_far(z, coding, p)) {
		v = 0;
		for (unsigned i = 0; i < 4 && end - p >= 8 && (v = ascii_eight(p, c)) == 0; i++)
			p += 8;         /* memchr costs more where the next one is near */
		if ((p = v != 0 ? p + __builtin_ctzll(v) / 8 : memchr(p, c, (size_t)(end - p))) == NULL)
			break;
		if (end - p <= 2 * SCRUB_UNIT_MAX)
			break;
		may = scrub_may_escape(z->t, coding, p);
		if (may && scrub_may_pair(z->t, coding, p))
			break;
		for (far = p; !may && z->t->step == SCRUB_LEAD - 6 && !scrub_leads(z->t, c) && end - p > 2 * SCRUB_UNIT_MAX; p = far) {
			if (p[15] == c || p[12] == c)   /* a guess: it is known before the escape is read */
				far = p + (p[15] == c ? 15 : 12);
			else if ((v = ascii_eight(p + 9, c)) != 0)
				far = p + 16 - __builtin_clzll(v) / 8;
			else if ((v = ascii_eight(p + 1, c)) != 0)
				far = p + 8 - __builtin_clzll(v) / 8;
			if (far == p || *far != c || scrub_may_escape(z->t, coding, far))
				break;
		}
	}
	z->escape[coding] = p != NULL && p < end ? (size_t)(p - z->in.p) : z->in.n;
}

static void
scrub_scan_start(struct scrub_scan *z, struct scrub *s, const struct scrub_table *t, struct slice in, bool end)
{
	*z = (struct scrub_scan){.s = s, .t = t, .in = in, .end = end, .begun = in.n};
	if (t == NULL)
		return;
	s->debt = s->debt > SCRUB_DEBT_MAX ? SCRUB_DEBT_MAX : s->debt < 0 ? 0 : s->debt;
	s->debt -= SCRUB_FREE * (int64_t)(in.n < HTTP_HEAD_MAX ? in.n : HTTP_HEAD_MAX);
	for (unsigned k = SCRUB_PERCENT; k < SCRUB_CODINGS; k++)
		if (k != SCRUB_TWICE)
			scrub_find_escape(z, k, 0);
}

/* Was so much compared that the search of this text ends here? */
static bool
scrub_dear(const struct scrub *s)
{
	return s->debt > SCRUB_DEBT_MAX;
}

/* May a value have this gram? */
static inline bool
scrub_known(const struct scrub_table *t, uint32_t key)
{
	uint32_t h = scrub_hash(key);

	return (t->bloom[h / 64] >> h % 64 & 1) != 0;
}

/* Compares the text with all values that have this gram at in.p[from], read in that coding, and notes the first and
 * longest of them. `raw`: the gram is not escaped, and any coding may follow; else what is before it may be escaped, too. */
static void
scrub_try(struct scrub_scan *z, uint32_t key, size_t from, unsigned coding, bool raw, struct scrub_hit *best)
{
	uint32_t h = scrub_hash(key);

	if (!scrub_known(z->t, key))
		return;
	for (unsigned g = z->t->slot[h >> (SCRUB_BLOOM_BITS - SCRUB_SLOT_BITS)]; g != 0 && !scrub_dear(z->s); g = z->t->gram[g - 1].next) {
		const struct scrub_gram *gram = &z->t->gram[g - 1];
		struct slice value = z->s->value[gram->value].value;
		size_t last = from - gram->at, seen = 0, other, far = SCRUB_USUAL_MAX * (size_t)gram->at;
		bool same = gram->key == key && from >= z->at + gram->at;

		for (size_t i = 0; same && raw && i < gram->at; i++)
			same = scrub_same(value, gram->form, i, z->in.p[last + i]);
		z->s->debt += gram->at + 1;
		for (size_t at = raw ? last : from - z->at > far ? from - far : z->at; same && at <= last; at++)
			for (unsigned k = raw ? SCRUB_RAW : coding; k <= (raw ? SCRUB_HTML : coding); k++) {
				/* SCRUB_RAW comes first, and tells of every coding of which it met no escape */
				ssize_t n = raw && k != SCRUB_RAW && memchr(z->in.p + at, scrub_escape[k], seen) == NULL ? 0 :
				    scrub_match(z, gram, k, at, k == SCRUB_RAW ? &seen : &other);

				if (n < 0 && at < z->begun)
					z->begun = at;
				if (n > 0 && (best->n == 0 || at < best->at || (at == best->at && (size_t)n > best->n)))
					*best = (struct scrub_hit){at, (size_t)n, gram->value, gram->form, k};
			}
	}
}

/* Up to four bytes that the text spells in a coding, of which the first is escaped. False: it is not, or the
 * text has fewer. */
static bool
scrub_read_gram(const struct scrub_scan *z, size_t at, unsigned coding, uint32_t *key)
{
	bool usual = z->t->runs[coding] && z->in.n - at > 4 * SCRUB_UNIT_MAX;
	char gram[8];
	size_t n = 0, got, used;

	for (size_t i = at; n < SCRUB_GRAM; i += used, n += got) {
		used = !usual ? 0 : z->in.p[i] == scrub_escape[coding] ? scrub_usual(coding, z->in.p + i) : 1;
		got = 1;
		if (used != 0)
			gram[n] = used == 1 ? z->in.p[i] : scrub_usual_char(coding, z->in.p + i, used);
		else if (i >= z->in.n || (used = scrub_unit(z->in, i, coding, z->end, gram + n, &got)) == 0 || (n == 0 && used == 1))
			return false;
	}
	*key = scrub_key(gram);
	return true;
}

/* Does the character have the `bits` bits of the value from its bit `at` on, in their place? */
static bool
scrub_partly(const struct scrub_scan *z, const struct scrub_hit *hit, size_t from, size_t *n, size_t at, unsigned bits, bool low)
{
	struct slice value = z->s->value[hit->value].value;
	size_t k, len;
	char c[4];
	const char *digit;
	unsigned want = 0;

	k = from < z->in.n ? scrub_unit(z->in, from, hit->coding, true, c, &len) : 0;
	if (k == 0 || c[0] == '\0' || (digit = strchr(scrub_forms[hit->form].abc, c[0])) == NULL)
		return false;
	for (size_t i = at; i < at + bits; i++)
		want = want << 1 | ((unsigned char)value.p[i / 8] >> (7 - i % 8) & 1);
	*n = k;
	k = (size_t)(digit - scrub_forms[hit->form].abc);
	return (low ? k & ((1u << bits) - 1) : k >> (6 - bits)) == want;
}

/* Takes in the characters before and behind that have bits of the value and of other bytes. */
static void
scrub_widen(const struct scrub_scan *z, struct scrub_hit *hit)
{
	unsigned lead = scrub_forms[hit->form].lead;
	size_t bits = 8 * z->s->value[hit->value].value.n, rest = (bits - lead) % 6, n;

	if (scrub_forms[hit->form].bits != 6)
		return;
	if (rest != 0 && scrub_partly(z, hit, hit->at + hit->n, &n, bits - rest, (unsigned)rest, false))
		hit->n += n;
	for (size_t k = 1; lead != 0 && k <= SCRUB_UNIT_MAX && hit->at >= z->at + k; k++)
		if (scrub_partly(z, hit, hit->at - k, &n, 0, lead, true) && n == k) {
			hit->at -= k;
			hit->n += k;
			break;
		}
}

/* Takes in the escapes of the text, in whatever coding, of which a part is the spelling's: what is left of one would break
 * the text. Before z->at none is looked for. */
static void
scrub_whole(const struct scrub_scan *z, struct scrub_hit *hit)
{
	size_t end = hit->at + hit->n, from = hit->at - z->at > SCRUB_UNIT_MAX ? hit->at - SCRUB_UNIT_MAX : z->at, at = hit->at, i, n;
	char c[4];

	for (unsigned k = SCRUB_TWICE; k < (hit->value < z->s->sealed ? SCRUB_HTML : SCRUB_CODINGS); k++) {    /* "&" parts a form's pairs */
		for (i = from; i < end; i += i < hit->at ? 1 : n) {
			n = scrub_unit(z->in, i, k, true, c, &n);
			at = i + n > hit->at && i < at ? i : at;
		}
		hit->n = i > hit->at + hit->n ? i - hit->at : hit->n;
	}
	while (at < hit->at && at > z->at && z->in.p[at] == '\\' && z->in.p[at - 1] == '\\')
		at--;                   /* JSON within JSON */
	*hit = (struct scrub_hit){at, hit->n + hit->at - at, hit->value, hit->form, hit->coding};
}

/* The next spelling of a value; of a text that is too dear to compare, all that is left. False: there is none. */
static bool
scrub_next(struct scrub_scan *z, struct scrub_hit *hit)
{
	*hit = (struct scrub_hit){0};
	while (z->t != NULL && hit->n == 0) {
		unsigned first = SCRUB_PERCENT, last;
		bool known = false;
		uint32_t key;
		size_t stop;

		for (unsigned k = SCRUB_JSON; k < SCRUB_CODINGS; k++)
			if (z->escape[k] < z->escape[first])
				first = k;
		stop = z->escape[first] + SCRUB_GRAM < z->in.n ? z->escape[first] + SCRUB_GRAM : z->in.n;
		for (; hit->n == 0 && z->sample + SCRUB_GRAM <= stop; z->sample += z->t->step)
			if (scrub_known(z->t, scrub_key(z->in.p + z->sample)))
				scrub_try(z, scrub_key(z->in.p + z->sample), z->sample, SCRUB_RAW, true, hit);
		if (hit->n != 0 || z->escape[first] == z->in.n)
			break;
		last = first == SCRUB_PERCENT ? SCRUB_TWICE : first;
		for (unsigned k = first; k <= last; k++) {
			if (k == first || !z->t->runs[k])       /* else no gram has a "%": what is percent's is twice percent's */
				known = scrub_read_gram(z, z->escape[first], z->t->runs[k] ? last : k, &key);
			if (known)
				scrub_try(z, key, z->escape[first], k, false, hit);
		}
		scrub_find_escape(z, first, (size_t)(scrub_far(z, first, z->in.p + z->escape[first]) - z->in.p));
	}
	if (z->t != NULL && scrub_dear(z->s))
		*hit = (struct scrub_hit){z->at, z->in.n - z->at, 0, SCRUB_PLAIN, SCRUB_RAW};
	if (hit->n == 0)
		return false;
	scrub_widen(z, hit);
	scrub_whole(z, hit);
	z->at = z->sample = hit->at + hit->n;
	for (unsigned k = SCRUB_PERCENT; k < SCRUB_CODINGS; k++)
		if (z->escape[k] < z->at && k != SCRUB_TWICE)
			scrub_find_escape(z, k, z->at);
	if (z->begun < z->at)
		z->begun = z->in.n;
	return true;
}

/* May a spelling in that coding begin at in.p[at] that the text does not end? */
static bool
scrub_begins(struct scrub_scan *z, size_t at, unsigned coding)
{
	size_t n, seen;
	char c[4] = {z->in.p[at]};
	bool cut = c[0] == scrub_escape[coding] && scrub_unit(z->in, at, coding, z->end, c, &n) == 0;
	unsigned last = cut ? 255 : (uint8_t)c[0];

	for (unsigned byte = cut ? 0 : last; byte <= last; byte++)
		for (unsigned i = z->t->start[byte]; i != 0; i = scrub_starts(z->t)[i - 1].next)
			if (scrub_dear(z->s) || scrub_match(z, &scrub_starts(z->t)[i - 1], coding, at, &seen) < 0)
				return true;
	return false;
}

/* Where the first spelling begins that the text does not end, once scrub_next found no more; in.n: there is
 * none. One of which SCRUB_LEAD characters are there was met by its grams. */
static size_t
scrub_begun(struct scrub_scan *z)
{
	static const uint8_t longest[SCRUB_CODINGS] = {1, 3, 5, 7, SCRUB_UNIT_MAX}; /* bytes for a character */
	size_t begun = z->begun;

	if (z->t == NULL || z->end || z->at == z->in.n)
		return z->in.n;
	for (unsigned k = SCRUB_RAW; k < SCRUB_CODINGS; k++) {
		size_t near = SCRUB_LEAD * (size_t)longest[k], at = z->in.n - z->at > near ? z->in.n - near : z->at;
		const char *last = k == SCRUB_RAW ? z->in.p + z->in.n : memrchr(z->in.p + at, scrub_escape[k], z->in.n - at);

		for (; last != NULL && at < begun && z->in.p + at <= last; at++)
			if (scrub_begins(z, at, k))
				begun = at;
	}
	return begun;
}

/* Puts characters of what was sent in the place of a spelling that was found, from text[from] on: as
 * many, in the same form, and such as are themselves in all codings: behind a backslash, which may be JSON's within JSON,
 * "/" is. */
static void
scrub_overwrite(const struct scrub_value *v, const struct scrub_hit *hit, char *text, size_t from)
{
	for (size_t i = from; i < hit->at + hit->n; i++) {
		char c = i == from && i != 0 && text[i - 1] == '\\' ? '/' : scrub_char(v->sent, hit->form, i - hit->at);

		text[i] = ascii_alnum(c) || memchr("-._~+/", c, 6) != NULL ? c : '*';
	}
}

/* An escape that began in text[from, at) and has not ended there is one still once it ends: of its number the last two digits
 * are others, of a name none. Returns where it ends. */
static size_t
scrub_finish(char *text, size_t n, size_t from, size_t at)
{
	size_t end = at, i, used, len, d;
	char c[4];

	for (unsigned k = SCRUB_TWICE; k < SCRUB_CODINGS; k++) {
		for (i = from, used = 0; i < at; i += used)
			used = scrub_unit((struct slice){text, n}, i, k, true, c, &len);
		for (d = i - 2 - (i != 0 && text[i - 1] == ';'); d < i && (k == SCRUB_TWICE || text[i - used + 1] == "u#"[k - SCRUB_JSON]); d++)
			text[d] = d < at || hex_digit(text[d]) < 0 ? text[d] : text[d] == '4' ? '5' : '4';
		end = i > end ? i : end;
	}
	return end;
}

/* -- the limit. A caller who sees where its own text becomes a placeholder can ask, guess by guess, what the
 * secret is. All workers count in one table: a slot for an agent and a credential has the times of its last hits.
 * Two that share a slot share its limit. */
#define SCRUB_SLOTS 1024
#define SCRUB_HITS_MAX 10       /* requests with hits of an agent and credential in SCRUB_WINDOW_MS */
#define SCRUB_WINDOW_MS 60000

struct scrub_slot {
	_Atomic uint32_t n;     /* hits so far */
	_Atomic int64_t at[SCRUB_HITS_MAX]; /* monotonic ms of the last ones; 0: there was none */
};

static struct scrub_slot *scrub_slots;  /* shared by all workers */

/* Once, before fork. */
static bool
scrub_init(void)
{
	scrub_slots = mmap(NULL, SCRUB_SLOTS * sizeof *scrub_slots, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return scrub_slots != MAP_FAILED;
}

/* Why an answer does not go on that scrub_note or scrub_begin refused. */
static const struct filter_fault *
scrub_fault(const struct scrub_tally *t)
{
	static const struct filter_fault limit = {502, "scrub_limit",
	    "the credential came back in too many answers: more than 10 requests in a minute",
	    "wait a minute; scrub=off would end the limit, and bodies would then give the agent the key itself"},
	    memory = {503, "injection_unavailable", "out of memory: the answer was not searched for the credential", "retry later"},
	    unread = {502, "scrub_hit", "the answer cannot be decoded, so it cannot be searched for the credential",
	    "`sallyport credential set NAME scrub=head` lets bodies through unsearched"};

	return t->over ? &limit : t->unread ? &unread : &memory;
}

/* Counts a hit. False: its request is one too many (t->over). */
static bool
scrub_note(const struct scrub *s, struct scrub_tally *t)
{
	struct scrub_slot *slot = &scrub_slots[s->whose % SCRUB_SLOTS];
	int64_t now = clock_now(), tenth;

	t->hits++;
	if (!t->counted && !t->free) {
		tenth = atomic_exchange(&slot->at[atomic_fetch_add(&slot->n, 1) % SCRUB_HITS_MAX], now);
		t->over = tenth != 0 && now - tenth < SCRUB_WINDOW_MS;
		t->counted = true;
	}
	return !t->over;
}

/* -- heads, and bodies that are whole */

/* Has the text a value, in any spelling? */
static bool
scrub_in(struct scrub *s, struct slice in)
{
	const struct scrub_table *t;
	struct scrub_scan z;
	struct scrub_hit hit;

	if (!scrub_table(s, false, &t))
		return true;            /* not looked at: it must not go on */
	scrub_scan_start(&z, s, t, in, true);
	return scrub_next(&z, &hit);
}

/* A parameter that we added goes out with its name and one "&": moves *start and *end around
 * them. */
static void
scrub_pair(const struct scrub_value *v, struct slice in, size_t from, size_t *start, size_t *end)
{
	size_t n = v->name.n + 1, at = *start - n;

	if (v->name.n == 0 || *start < from + n || at == 0 || in.p[*start - 1] != '=' ||
	    memcmp(in.p + at, v->name.p, v->name.n) != 0 || (in.p[at - 1] != '?' && in.p[at - 1] != '&'))
		return;
	*start = at;
	if (*end < in.n && in.p[*end] == '&')
		++*end;
	else if (at > from)
		--*start;
}

/* Adds the text as the client may see it. In a head, what was sent takes the place of every spelling. In a body (`tally`
 * not NULL) it does where the value stood as itself; else as many characters of it do, and a body without a hit adds
 * nothing. False: no room, no memory to look, or a hit too many (tally->over). */
static bool
scrub_rewrite(struct scrub *s, struct slice in, struct scrub_tally *tally, struct buf *out)
{
	const struct scrub_table *t;
	struct scrub_scan z;
	struct scrub_hit hit;
	size_t from = 0;
	bool ok = true;

	if (!scrub_table(s, tally != NULL, &t))
		return false;
	scrub_scan_start(&z, s, t, in, true);
	while (scrub_next(&z, &hit)) {
		const struct scrub_value *v = &s->value[hit.value];
		size_t start = hit.at, end = hit.at + hit.n, at;

		if (v->sent.p == NULL && tally == NULL)
			scrub_pair(v, in, from, &start, &end);
		buf_add(out, in.p + from, start - from);
		at = out->n;
		if (tally == NULL) {
			buf_addv(out, v->sent);
		} else if (buf_addv(out, hit.form <= SCRUB_PLUS && v->sent.n != 0 ? v->sent : (struct slice){in.p + hit.at, hit.n})) {
			scrub_overwrite(v, &(struct scrub_hit){at, out->n - at, hit.value, hit.form, SCRUB_RAW}, out->p, at);
			ok = (hit.value < s->sealed || scrub_note(s, tally)) && ok;
		}
		from = end;
	}
	return ((tally != NULL && from == 0) || buf_add(out, in.p + from, in.n - from)) && ok;
}

static bool
scrub_put(struct scrub *s, struct slice in, struct buf *out)
{
	return scrub_rewrite(s, in, NULL, out);
}

/* Takes every value out of a whole body. False: as scrub_rewrite. */
static bool
scrub_body(struct scrub *s, struct buf *body, struct scrub_tally *tally)
{
	struct buf out = {.max = body->n + SCRUB_GROWTH_MAX};
	bool ok = scrub_rewrite(s, buf_slice(body), tally, &out), changed = ok && out.n != 0;

	buf_free(changed ? body : &out);
	if (changed)
		*body = out;
	return ok;
}

/* -- what the request asks for */

/* Which of the words is it, in any case? The first is 1; 0: none. */
static unsigned
scrub_word(struct slice s, const char *words)
{
	struct slice rest = slice_of(words);

	for (unsigned i = 1; rest.n != 0; i++)
		if (slice_eq_nocase(slice_cut(&rest, ' '), s))
			return i;
	return 0;
}

/* Cuts Accept-Encoding (RFC 9110 12.5.3) to those codings that can be read here, and a WebSocket's extensions,
 * all of which are codings, where bodies will be searched. */
static void
req_ask_readable(struct req *r)
{
	for (struct http_field *f = r->head.field; f < r->head.field + r->head.nfields; f++) {
		struct slice rest = f->value;
		char *to = (char *)(uintptr_t)f->value.p, *begin = to;  /* in r->bytes */
		bool cut = false;       /* else it stays as it came: it may be signed, and it may be our "identity" */

		if (r->scrub == SCRUB_HEAD || r->scrub == SCRUB_OFF || f->mark != FIELD_KEPT || f->own != NULL)
			continue;
		if (r->websocket && slice_eq_nocase(f->name, SLICE("sec-websocket-extensions")))
			f->mark = FIELD_DROPPED;
		if (!slice_eq_nocase(f->name, SLICE("accept-encoding")))
			continue;
		while (rest.n != 0) {
			struct slice one = http_trim(slice_cut(&rest, ',')), name = http_trim(slice_until(one, ';'));
			bool keep = scrub_word(name, "gzip x-gzip deflate identity") != 0;

			if (!keep && !cut) {        /* what stands before it stays where it is */
				to = (char *)(uintptr_t)(one.p);
				while (to != begin && (to[-1] == ',' || to[-1] == ' ' || to[-1] == '\t'))
					to--;
			}
			cut = cut || !keep;
			if (!cut || !keep)
				continue;
			if (to != begin)
				*to++ = ',';
			memmove(to, one.p, one.n);
			to += one.n;
		}
		if (cut)
			f->value = to != begin ? (struct slice){begin, (size_t)(to - begin)} : SLICE("identity");
	}
}

/* ---- known -----------------------------------------------------------------
 * Placeholders of an agent's other credentials, found in a request that does not carry theirs, so
 * that the refusal can name the credential. One pass finds any of a set, at a cost that does not
 * depend on their number: eight bytes of each, chosen where it is random, are its key in a hash
 * table. Skip it: a placeholder is worthless elsewhere, and no decision depends on one that is
 * missed. */
#define KNOWN_KEY 8
#define KNOWN_FOUND_MAX 16      /* of one request: one is enough to refuse it */

struct known_entry {
	uint64_t key;
	uint32_t at;            /* where the placeholder begins in `text`, behind the credential's name */
	uint32_t next;          /* in the same slot: index + 1; 0: none */
	uint16_t n;             /* bytes of the placeholder; 0: dropped */
	uint16_t end;           /* where the key's bytes end in the placeholder */
	uint16_t name_n;
};

struct known {
	struct known_entry *entry; /* owned */
	uint32_t *slot;         /* owned; index + 1 */
	uint32_t n, cap, bits;  /* 1 << bits slots */
	uint32_t dropped;
	struct buf text;        /* owned */
};

struct known_found {
	uint32_t id[KNOWN_FOUND_MAX]; /* 1 for the first that was added */
	size_t n;
};

static void
known_wipe(struct known *k)
{
	free(k->entry);
	free(k->slot);
	buf_free(&k->text);
	*k = (struct known){.text = {.max = k->text.max}};
}

static uint32_t
known_slot(const struct known *k, uint64_t key)
{
	return (uint32_t)(key * 0x9e3779b97f4a7c15 >> (64 - k->bits));
}

static void
known_chain(struct known *k, uint32_t i)
{
	uint32_t *at = &k->slot[known_slot(k, k->entry[i].key)];

	k->entry[i].next = *at;
	*at = i + 1;
}

/* Adds placeholder `text` of credential `name`. `end`: where its random part ends. A text of less
 * than KNOWN_KEY bytes is never found. False: no memory, or too long. */
static bool
known_add(struct known *k, struct slice name, struct slice text, size_t end)
{
	struct known_entry e = {.n = (uint16_t)text.n, .end = (uint16_t)end, .name_n = (uint16_t)name.n}, *entry;
	uint32_t bits = k->bits == 0 ? 6 : k->bits + 1, cap = 1u << (bits - 1), *slot;

	if (k->n == k->cap) {           /* twice as many, chained anew */
		if ((entry = realloc(k->entry, cap * sizeof *entry)) == NULL)
			return false;
		k->entry = entry;
		if ((slot = calloc((size_t)1 << bits, sizeof *slot)) == NULL)
			return false;
		free(k->slot);
		k->slot = slot;
		k->cap = cap;
		k->bits = bits;
		for (uint32_t i = 0; i < k->n; i++)
			known_chain(k, i);
	}
	if (name.n > UINT16_MAX || text.n > UINT16_MAX || !buf_addv(&k->text, name) || !buf_addv(&k->text, text))
		return false;
	e.at = (uint32_t)(k->text.n - text.n);
	if (text.n >= KNOWN_KEY && end >= KNOWN_KEY && end <= text.n)
		e.key = load_be64(text.p + end - KNOWN_KEY);
	k->entry[k->n] = e;
	known_chain(k, k->n++);
	return true;
}

static struct slice
known_name(const struct known *k, uint32_t id)
{
	const struct known_entry *e = &k->entry[id - 1];

	return (struct slice){k->text.p + e->at - e->name_n, e->name_n};
}

/* Drops all placeholders of this credential: their entries stay, and are found no more. */
static void
known_drop(struct known *k, struct slice name)
{
	for (uint32_t id = 1; id <= k->n; id++) {
		if (k->entry[id - 1].n == 0 || !slice_eq(known_name(k, id), name))
			continue;
		k->entry[id - 1].n = 0;
		k->dropped++;
	}
}

/* Adds one id, unless it is there. Ids beyond KNOWN_FOUND_MAX are dropped. */
static void
known_note(struct known_found *found, uint32_t id)
{
	for (size_t i = 0; i < found->n; i++)
		if (found->id[i] == id)
			return;
	if (found->n < KNOWN_FOUND_MAX)
		found->id[found->n++] = id;
}

/* Adds the ids of the placeholders that stand in `in` to *found. */
static void
known_scan(const struct known *k, struct slice in, struct known_found *found)
{
	uint64_t key = 0;

	if (k->n == 0)
		return;
	for (size_t i = 0; i < in.n; i++) {
		key = key << 8 | (unsigned char)in.p[i];
		if (i + 1 < KNOWN_KEY)
			continue;
		for (uint32_t at = k->slot[known_slot(k, key)]; at != 0; at = k->entry[at - 1].next) {
			const struct known_entry *e = &k->entry[at - 1];

			if (e->key == key && e->n != 0 && i + 1 >= e->end && in.n - (i + 1 - e->end) >= e->n &&
			    memcmp(in.p + i + 1 - e->end, k->text.p + e->at, e->n) == 0)
				known_note(found, at);
		}
	}
}

/* known_scan of a text that may be percent-encoded. False: no memory. */
static bool
known_scan_encoded(const struct known *k, struct slice in, struct known_found *found)
{
	struct buf plain;

	if (in.n == 0 || memchr(in.p, '%', in.n) == NULL) {
		known_scan(k, in, found);
		return true;
	}
	buf_init(&plain, in.n);
	if (!buf_reserve(&plain, in.n))
		return false;
	plain.n = pct_decode(plain.p, in.n, in, PCT_URI);
	known_scan(k, buf_slice(&plain), found);
	buf_free(&plain);
	return true;
}

/* known_scan of a field's value, and of what Basic holds in base64. */
static void
known_scan_value(const struct known *k, struct slice in, struct known_found *found)
{
	struct buf plain;

	known_scan(k, in, found);
	if (http_basic(in, &plain))
		known_scan(k, buf_slice(&plain), found);
	buf_free(&plain);
}

/* ---- sign ------------------------------------------------------------------
 * Digests, MACs, signatures of AWS and JWS, and private keys, by BearSSL. Pure: bytes in, bytes
 * out.
 *
 * Invariants. Only derived keys (sigv4_kept) and the last second's text are kept. A context on the
 * stack that has seen a key is wiped; a stand-in key is none, being worthless elsewhere. No RSA
 * signature leaves before it was verified. Skip it if you trust that what is signed is the request
 * that goes out, and that no key stays behind on the stack. */
#define SIGN_DIGEST_MAX 64      /* SHA-512 */

static const struct sign_hash {
	const char *name;
	const br_hash_class *hash;
	size_t n;
} sign_hashes[] = {
	{"sha256", &br_sha256_vtable, br_sha256_SIZE},
	{"sha1",   &br_sha1_vtable,   br_sha1_SIZE},    /* OAuth 1.0a still asks for it */
	{"sha384", &br_sha384_vtable, br_sha384_SIZE},
	{"sha512", &br_sha512_vtable, br_sha512_SIZE},
};
#define SIGN_SHA256 (&sign_hashes[0])

/* `out` takes h->n bytes. */
static void
sign_digest(const struct sign_hash *h, struct slice data, void *out)
{
	br_hash_compat_context c;

	h->hash->init(&c.vtable);
	h->hash->update(&c.vtable, data.p, data.n);
	h->hash->out(&c.vtable, out);
	wipe(&c, sizeof c);
}

/* HMAC (RFC 2104) over the parts, one behind the other, with a key that was taken in before. */
static void
sign_mac(const br_hmac_key_context *key, const struct slice *part, size_t nparts, void *out)
{
	br_hmac_context c;

	br_hmac_init(&c, key, 0);
	for (size_t i = 0; i < nparts; i++)
		br_hmac_update(&c, part[i].p, part[i].n);
	br_hmac_out(&c, out);
	wipe(&c, sizeof c);
}

/* As sign_mac. `out` takes h->n bytes. */
static void
sign_hmac(const struct sign_hash *h, struct slice key, const struct slice *part, size_t nparts,
    void *out)
{
	br_hmac_key_context kc;

	br_hmac_key_init(&kc, h->hash, key.p, key.n);
	sign_mac(&kc, part, nparts, out);
	wipe(&kc, sizeof kc);
}

/* -- Signature Version 4 (AWS Signature Version 4 for API requests; the S3 API Reference for S3's
 * own rules). A canonical request is read off the request as it goes out, hashed, and signed with a
 * key that is derived for a day, a region and a service. Both texts are lines, joined by LF:
 *
 *   canonical request                    string to sign
 *   method                               algorithm, AWS4-HMAC-SHA256 or AWS4-ECDSA-P256-SHA256
 *   path                                 date and time, 20130524T000000Z
 *   query, sorted                        scope, 20130524/us-east-1/s3/aws4_request
 *   a line "name:value" each field       SHA-256 of the canonical request, hexadecimal
 *   an empty line
 *   names of the fields, joined by ";"
 *   SHA-256 of the body, hexadecimal, or the word for it */
#define SIGV4_CANONICAL_MAX (4 * HTTP_HEAD_MAX) /* escapes triple a byte, and names stand there twice */
#define SIGV4_PAIRS_MAX 1000    /* of a query: as many as form.encode makes */
#define SIGV4_SCOPE_MAX 256     /* region and service names have some 30 letters; a region set more */
#define SIGV4_DATE_MAX 17       /* 20130524T000000Z */
#define SIGV4_STRING_MAX (32 + SIGV4_DATE_MAX + SIGV4_SCOPE_MAX + 64)
#define SIGV4_KEY 32
#define SIGV4_SIGNATURE_MAX 144 /* hex of SigV4a's longest ECDSA-Sig-Value (RFC 3279 2.2.3): 72 bytes */
#define SIGV4_KEYS 32           /* derived keys kept: the (credential, region, service) of a busy hour */

struct sigv4_field {
	struct slice name, value;  /* borrowed */
};

struct sigv4_request {
	struct slice method, path, query;  /* as they go out; query without "?" */
	struct slice payload;              /* the body's hash in hex, or the word that stands for it */
	struct sigv4_field *field;         /* those that are signed, in the order in which they go out */
	size_t nfields;
	struct slice names;                /* "host;x-amz-date", as sigv4_names wrote them */
	bool normalize, twice;             /* the path; S3 wants neither */
};

/* Percent-encodes `in` (AWS's UriEncode). A %XX is not encoded again, but spelled as AWS spells it;
 * an encoded slash of a path stays encoded. */
static void
sigv4_put_once(struct buf *b, struct slice in, enum pct mode)
{
	char c;

	for (size_t i = 0, n; i < in.n; i += n) {
		for (n = 0; i + n < in.n && pct_plain(in.p[i + n], mode); n++)
			;
		if (n != 0) {
			buf_add(b, in.p + i, n);
		} else {
			n = pct_next(in, i, mode, &c);
			pct_put(b, (struct slice){&c, 1}, PCT_URI);
		}
	}
}

/* Normalised by RFC 3986 5.2.4 as every AWS SDK has it: empty segments are removed too. */
static void
sigv4_put_path(struct buf *b, const struct sigv4_request *r)
{
	struct slice path = r->path.n != 0 ? r->path : SLICE("/");
	struct buf plain;

	buf_init(&plain, HTTP_HEAD_MAX);
	for (struct slice left = path; r->normalize && left.n != 0;) {
		struct slice segment = slice_cut(&left, '/');

		if (slice_eq(segment, SLICE(".."))) {
			while (plain.n != 0 && plain.p[--plain.n] != '/')
				;
		} else if (segment.n != 0 && !slice_eq(segment, SLICE("."))) {
			buf_add(&plain, "/", 1);
			buf_addv(&plain, segment);
		}
	}
	if (r->normalize) {
		buf_add(&plain, "/", plain.n == 0 || path.p[path.n - 1] == '/');
		path = buf_slice(&plain);
	}
	if (r->twice)
		pct_put(b, path, PCT_PATH);
	else
		sigv4_put_once(b, path, PCT_PATH);
	b->bad |= plain.bad;
	buf_free(&plain);
}

static int
sigv4_order_pairs(const void *a, const void *b)
{
	const struct sigv4_field *x = a, *y = b;
	int order = slice_order(x->name, y->name);

	return order != 0 ? order : slice_order(x->value, y->value);
}

/* The pairs, encoded and sorted by name and value; a pair without "=" gets one. */
static void
sigv4_put_query(struct buf *b, struct slice query)
{
	struct sigv4_field *pair = NULL;
	struct slice one, name;
	size_t n = 0, count = 1;
	struct buf text;

	for (size_t i = 0; i < query.n; i++)
		count += query.p[i] == '&';
	if (query.n == 0)
		return;
	if (count > SIGV4_PAIRS_MAX || (pair = calloc(count, sizeof *pair)) == NULL) {
		b->bad = true;
		return;
	}
	buf_init(&text, SIGV4_CANONICAL_MAX);
	buf_reserve(&text, 3 * query.n);        /* so that it stays where it is */
	for (size_t at = 0; pair_next(query, &at, PAIR_AMP, &one, &name);) {
		size_t from = text.n, mid;

		sigv4_put_once(&text, name, PCT_QUERY);
		mid = text.n;
		sigv4_put_once(&text, pair_value(one, name), PCT_QUERY);
		pair[n] = (struct sigv4_field){{text.p + from, mid - from}, {text.p + mid, text.n - mid}};
		n += text.n != from;
	}
	if (n > 1)
		qsort(pair, n, sizeof *pair, sigv4_order_pairs);
	for (size_t i = 0; i < n; i++) {
		const struct slice piece[] = {
			{"&", i != 0}, pair[i].name, SLICE_INIT("="), pair[i].value,
		};

		buf_join(b, piece, COUNT(piece));
	}
	b->bad |= text.bad;
	buf_free(&text);
	free(pair);
}

static void
sigv4_put_lower(struct buf *b, struct slice s)
{
	size_t at = b->n;

	for (buf_addv(b, s); at < b->n; at++)
		b->p[at] = ascii_lower(b->p[at]);
}

/* Sorts the fields by name, those of one name in the order in which they came, and writes
 * SignedHeaders. */
static void
sigv4_names(struct sigv4_request *r, struct buf *names)
{
	struct sigv4_field *f = r->field;

	for (size_t i = 1; i < r->nfields; i++) {
		struct sigv4_field one = f[i];
		size_t at = i;

		for (; at > 0; at--) {
			struct slice before = f[at - 1].name;
			int order = strncasecmp(before.p, one.name.p, before.n < one.name.n ? before.n : one.name.n);

			if (order < 0 || (order == 0 && before.n <= one.name.n))
				break;
			f[at] = f[at - 1];
		}
		f[at] = one;
	}
	for (size_t i = 0; i < r->nfields; i++) {
		if (i != 0 && slice_eq_nocase(f[i - 1].name, f[i].name))
			continue;
		buf_add(names, ";", i != 0);
		sigv4_put_lower(names, f[i].name);
	}
	r->names = buf_slice(names);
}

/* Writes the canonical request, after sigv4_names. The buffer is bad if something is over a
 * bound. */
static void
sigv4_canonical(const struct sigv4_request *r, struct buf *out)
{
	buf_addv(out, r->method);
	buf_add(out, "\n", 1);
	sigv4_put_path(out, r);
	buf_add(out, "\n", 1);
	sigv4_put_query(out, r->query);
	buf_add(out, "\n", 1);
	for (size_t i = 0; i < r->nfields; i++) {
		struct slice v = r->field[i].value;
		size_t begin;

		if (i != 0 && slice_eq_nocase(r->field[i - 1].name, r->field[i].name)) {
			buf_add(out, ",", 1);
		} else {
			buf_add(out, "\n", i != 0);
			sigv4_put_lower(out, r->field[i].name);
			buf_add(out, ":", 1);
		}
		/* AWS's Trimall: no white space at the ends, one space for several */
		begin = out->n;
		for (size_t k = 0, n; k < v.n; k += n + 1) {
			for (n = 0; k + n < v.n && v.p[k + n] != ' ' && v.p[k + n] != '\t'; n++)
				;
			buf_add(out, " ", n != 0 && out->n != begin);
			buf_add(out, v.p + k, n);
		}
	}
	buf_add(out, "\n\n", r->nfields != 0 ? 2 : 1);
	buf_addv(out, r->names);
	buf_add(out, "\n", 1);
	buf_addv(out, r->payload);
}

static const char sigv4_hmac[] = "AWS4-HMAC-SHA256", sigv4_ecdsa[] = "AWS4-ECDSA-P256-SHA256";

/* Where and when a signature holds. */
struct sigv4_scope {
	bool asymmetric;                 /* SigV4a: no region here, X-Amz-Region-Set has them */
	char datetime[SIGV4_DATE_MAX];
	char text[SIGV4_SCOPE_MAX];      /* 20130524/us-east-1/s3/aws4_request */
};

/* RFC 3986 2.3's unreserved characters, which names of regions and services consist of: no "/", no
 * ",". An access key may have others that are visible: Swift's tempauth has "account:user". */
static bool
sigv4_word_ok(struct slice s, bool is_key)
{
	for (size_t i = 0; i < s.n; i++)
		if (!pct_plain(s.p[i], PCT_URI) &&
		    (!is_key || s.p[i] <= ' ' || s.p[i] > '~' || s.p[i] == '/' || s.p[i] == ','))
			return false;
	return s.n != 0 && s.n <= 64;
}

/* False: `region` or `service` is no name, or the time has no year of four digits. */
static bool
sigv4_scope_init(struct sigv4_scope *s, int64_t unix_s, struct slice region, struct slice service,
    bool asymmetric)
{
	static struct { bool is; time_t of; char text[SIGV4_DATE_MAX]; } last;  /* for one second's requests */
	time_t t = (time_t)unix_s;
	struct tm tm;
	int n;

	if (asymmetric)
		region = SLICE("");
	if ((!asymmetric && !sigv4_word_ok(region, false)) || !sigv4_word_ok(service, false))
		return false;
	if (!last.is || last.of != t) {
		last.is = gmtime_r(&t, &tm) != NULL &&
		    strftime(last.text, sizeof last.text, "%Y%m%dT%H%M%SZ", &tm) == SIGV4_DATE_MAX - 1;
		last.of = t;
	}
	s->asymmetric = asymmetric;
	memcpy(s->datetime, last.text, SIGV4_DATE_MAX);
	n = snprintf(s->text, sizeof s->text, "%.8s%s%.*s/%.*s/aws4_request", s->datetime,
	    asymmetric ? "" : "/", (int)region.n, region.p, (int)service.n, service.p);
	return last.is && n > 0 && (size_t)n < sizeof s->text;
}

/* Writes the string to sign. Returns its length. */
static size_t
sigv4_string(char out[SIGV4_STRING_MAX], const struct sigv4_scope *s, struct slice canonical)
{
	char hex[2 * br_sha256_SIZE];

	tls_sha256_hex(canonical, hex);
	return (size_t)snprintf(out, SIGV4_STRING_MAX, "%s\n%s\n%s\n%.64s",
	    s->asymmetric ? sigv4_ecdsa : sigv4_hmac, s->datetime, s->text, hex);
}

/* n - 2 of P-256 (FIPS 186-4 D.1.2.3), the largest that 1 may be added to. */
static const unsigned char sigv4_p256_n_2[SIGV4_KEY] = {
	0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x4f,
};

/* a <= b, big-endian, in constant time. */
static bool
sigv4_not_above(const unsigned char *a, const unsigned char *b, size_t n)
{
	unsigned borrow = 0;

	for (size_t i = n; i-- > 0;)
		borrow = ((unsigned)b[i] - a[i] - borrow) >> 8 & 1;
	return borrow == 0;
}

/* Derived keys, each under the hash of what it was derived from, in the arena. A hit saves four
 * HMACs, and for SigV4a the search. A new key overwrites the oldest. */
static struct {
	char *arena;            /* of `block`: a forked child has another arena */
	struct secret *block;   /* owned */
	unsigned next;
} sigv4_kept;

struct sigv4_kept_key {
	unsigned char of[br_sha256_SIZE], key[SIGV4_KEY];
};

/* An HMAC for each part of the scope (date, region, service, "aws4_request"), keyed by the HMAC
 * before, the first by "AWS4" and the secret. SigV4a's private key: NIST SP 800-108 5.1, counter mode,
 * with HMAC-SHA256, keyed by "AWS4A" and the secret. The context is the access key's id and a counter,
 * which counts until the number fits the curve. Each of 254 tries fails with p = 2^-32. */
static bool
sigv4_derive(struct slice secret, struct slice access_key, const struct sigv4_scope *s,
    unsigned char key[SIGV4_KEY])
{
	static const char before[] = "\0\0\0\1AWS4-ECDSA-P256-SHA256\0", after[] = "\0\0\1\0";
	struct slice left = s->asymmetric ? SLICE("") : slice_of(s->text);
	unsigned char first[512];       /* an AWS secret has 40 bytes */
	size_t n = s->asymmetric ? 5 : 4;
	struct slice k = {(char *)first, n + secret.n};
	bool found = !s->asymmetric;

	memcpy(first, "AWS4A", n);
	memcpy(first + n, secret.p, secret.n);
	while (left.n != 0) {
		struct slice part = slice_cut(&left, '/');

		sign_hmac(SIGN_SHA256, k, &part, 1, key);
		k = (struct slice){(char *)key, SIGV4_KEY};
	}
	for (unsigned counter = 1; !found && counter < 255; counter++) {
		char c = (char)counter;
		const struct slice part[] = {
			{before, sizeof before - 1}, access_key, {&c, 1}, {after, sizeof after - 1},
		};

		sign_hmac(SIGN_SHA256, k, part, 4, key);
		found = sigv4_not_above(key, sigv4_p256_n_2, SIGV4_KEY);
	}
	for (size_t i = SIGV4_KEY, carry = 1; s->asymmetric && found && i-- > 0;) {
		carry += key[i];
		key[i] = (unsigned char)carry;
		carry >>= 8;
	}
	wipe(first, sizeof first);
	return found;
}

/* The signing key, derived or kept. The caller wipes it. False: `secret` is empty or too long, or
 * SigV4a found no key. */
static bool
sigv4_key(struct slice secret, struct slice access_key, const struct sigv4_scope *s,
    unsigned char key[SIGV4_KEY])
{
	const struct slice piece[] = {
		{s->asymmetric ? "a" : "h", 1}, access_key, SLICE_INIT("\n"),
		{s->text, s->asymmetric ? 0 : strlen(s->text)}, SLICE_INIT("\n"), secret,
	};
	struct sigv4_kept_key *kept;
	unsigned char of[br_sha256_SIZE];
	bool ok;

	if (sigv4_kept.block == NULL || sigv4_kept.arena != secret_arena.base) {
		sigv4_kept.block = secret_new(SIGV4_KEYS * sizeof *kept);
		sigv4_kept.arena = secret_arena.base;
		sigv4_kept.next = 0;
	}
	if (secret.n == 0 || secret.n > 256 || access_key.n > 256)
		return false;
	if (sigv4_kept.block == NULL)
		return sigv4_derive(secret, access_key, s, key);
	kept = (struct sigv4_kept_key *)(void *)sigv4_kept.block->p;
	tls_sha256_join(piece, COUNT(piece), of);
	for (size_t i = 0; i < SIGV4_KEYS; i++) {
		if (!ct_eq(kept[i].of, of, sizeof of))
			continue;
		memcpy(key, kept[i].key, SIGV4_KEY);
		wipe(of, sizeof of);
		return true;
	}
	if ((ok = sigv4_derive(secret, access_key, s, key))) {
		memcpy(kept[sigv4_kept.next].of, of, sizeof of);
		memcpy(kept[sigv4_kept.next].key, key, SIGV4_KEY);
		sigv4_kept.next = (sigv4_kept.next + 1) % SIGV4_KEYS;
	}
	wipe(of, sizeof of);
	return ok;
}

/* The signature in hex, with its NUL. */
static bool
sigv4_sign(const struct sigv4_scope *s, const unsigned char key[SIGV4_KEY], struct slice string,
    char out[SIGV4_SIGNATURE_MAX + 1])
{
	unsigned char digest[br_sha256_SIZE], raw[SIGV4_SIGNATURE_MAX / 2 + 8], x[SIGV4_KEY];
	br_ec_private_key ec = {BR_EC_secp256r1, x, sizeof x};
	size_t n = br_sha256_SIZE;

	if (s->asymmetric) {
		memcpy(x, key, sizeof x);
		sign_digest(SIGN_SHA256, string, digest);
		n = br_ecdsa_sign_asn1_get_default()(br_ec_get_default(), &br_sha256_vtable, digest, &ec, raw);
		wipe(x, sizeof x);
	} else {
		sign_hmac(SIGN_SHA256, (struct slice){(const char *)key, SIGV4_KEY}, &string, 1, raw);
	}
	if (n == 0 || n > SIGV4_SIGNATURE_MAX / 2)
		return false;
	out[hex_encode(out, raw, n)] = '\0';
	return true;
}

/* -- chunk signatures: AWS Signature Version 4 of a body that is signed chunk by chunk (Amazon S3
 * API Reference, "Transferring Payload in Multiple Chunks" and "Including Trailing Headers"). Each
 * signature covers the one before it; the first covers the head's, the seed signature. A chunk
 * (aws-chunked):
 *
 *   offset  bytes
 *   0       d      size n of the data, 1 to 16 hexadecimal digits
 *   d       17     ";chunk-signature="
 *   d+17    64     signature, hexadecimal
 *   d+81    2      CR LF
 *   d+83    n      data
 *   d+83+n  2      CR LF
 *
 * The last chunk has n = 0. If the head announced trailers, they stand at its d+83 instead: lines
 * "name:value" CR LF, the line "x-amz-trailer-signature:" and 64 digits, and an empty line. */
#define SIGV4_CHUNK_MAX (1024 * 1024)  /* SDKs send 64 or 128 KiB; a signature stands before its data */
#define SIGV4_LINE_MAX (16 + sizeof ";chunk-signature=" - 1 + 64 + 2)
#define SIGV4_TRAILERS_MAX 2048        /* one checksum and the signature take 200 bytes */
#define SIGV4_TRAILER_FIELDS_MAX 8

struct sigv4_chain {
	br_hmac_key_context key; /* of the derived signing key */
	struct sigv4_scope scope;
	char last[65];          /* the signature before, hex; first the head's own */
};

/* The chain's next signature, over the SHA-256 of a chunk or of the trailers: left in c->last. */
static void
sigv4_chain_sign(struct sigv4_chain *c, bool trailer, const unsigned char digest[br_sha256_SIZE])
{
	/* of the chunk's own headers, of which there are none */
	static const struct slice nl = SLICE_INIT("\n"),
	    empty = SLICE_INIT("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n");
	char hex[2 * br_sha256_SIZE];
	const struct slice part[] = {
		slice_of(trailer ? "AWS4-HMAC-SHA256-TRAILER" : "AWS4-HMAC-SHA256-PAYLOAD"), nl,
		slice_of(c->scope.datetime), nl, slice_of(c->scope.text), nl, slice_of(c->last), nl,
		{empty.p, trailer ? 0 : empty.n}, {hex, sizeof hex},
	};
	unsigned char mac[br_sha256_SIZE];

	hex_encode(hex, digest, br_sha256_SIZE);
	sign_mac(&c->key, part, COUNT(part), mac);
	hex_encode(c->last, mac, sizeof mac);
}

static bool
sigv4_is_signature(struct slice s)
{
	uint8_t mac[br_sha256_SIZE];

	return s.n == 2 * sizeof mac && hex_decode(mac, s);
}

/* A chunk's head, up to its CR LF, and *size of its data. Returns its bytes, 0 for "need more",
 * -400, or -413 for a chunk of more than SIGV4_CHUNK_MAX. */
static ssize_t
sigv4_chunk_head(struct slice in, size_t *size)
{
	struct slice line, name;
	ssize_t n = http_line(in.p, in.n < SIGV4_LINE_MAX ? in.n : SIGV4_LINE_MAX, &line);
	uint64_t v = 0;
	size_t i = 0;

	if (n <= 0)
		return n == 0 && in.n < SIGV4_LINE_MAX ? 0 : -400;
	for (; i < line.n && i < 16 && hex_digit(line.p[i]) >= 0; i++)
		v = v << 4 | (uint64_t)hex_digit(line.p[i]);
	line = (struct slice){line.p + i, line.n - i};
	name = slice_cut(&line, '=');
	if (i == 0 || !slice_eq(name, SLICE(";chunk-signature")) || !sigv4_is_signature(line))
		return -400;
	if (v > SIGV4_CHUNK_MAX)
		return -413;
	*size = (size_t)v;
	return n;
}

struct sigv4_trailers {
	struct sigv4_field field[SIGV4_TRAILER_FIELDS_MAX];
	size_t n;
	struct slice signature; /* the client's; empty until its line was read */
};

/* False: too many trailers, a name that is there, or a name or value that is not in canonical
 * form. */
static bool
sigv4_trailer_add(struct sigv4_trailers *t, struct slice name, struct slice value)
{
	if (t->n == SIGV4_TRAILER_FIELDS_MAX || value.n == 0)
		return false;
	for (size_t i = 0; i < name.n; i++)
		if (memchr("abcdefghijklmnopqrstuvwxyz0123456789-", name.p[i], 37) == NULL)
			return false;
	for (size_t i = 0; i < value.n; i++)
		if ((unsigned char)(value.p[i] - 0x21) > 0x7e - 0x21)
			return false;   /* visible ASCII: there is nothing to trim or to fold */
	for (size_t i = 0; i < t->n; i++)
		if (slice_eq(t->field[i].name, name))
			return false;
	t->field[t->n++] = (struct sigv4_field){name, value};
	return true;
}

/* The trailers of the last chunk, up to their empty line. Returns their bytes, 0 for "need more",
 * or -400. A line ends in CR LF; one that is not the signature also in LF CR LF, as minio-go sends
 * it. */
static ssize_t
sigv4_trailers_parse(struct slice in, struct sigv4_trailers *t)
{
	size_t at = 0;

	memset(t, 0, sizeof *t);
	while (at < in.n) {
		struct slice line = {in.p + at, in.n - at}, name;
		const char *lf = memchr(line.p, '\n', line.n);

		if (lf == NULL)
			return 0;
		line.n = (size_t)(lf - line.p);
		at += line.n + 1;
		if (line.n != 0 && line.p[line.n - 1] == '\r') {
			if (--line.n == 0)
				return t->signature.n != 0 ? (ssize_t)at : -400;
		} else {
			if (in.n - at < 2)
				return memcmp(in.p + at, "\r", in.n - at) == 0 ? 0 : -400;
			if (memcmp(in.p + at, "\r\n", 2) != 0)
				return -400;
			at += 2;
		}
		lf = line.p + line.n;
		name = slice_cut(&line, ':');
		if (name.n == 0 || t->signature.n != 0)
			return -400;    /* the signature is the last */
		if (!slice_eq(name, SLICE("x-amz-trailer-signature"))) {
			if (!sigv4_trailer_add(t, name, line))
				return -400;
		} else {
			t->signature = line;
			if (t->n == 0 || !sigv4_is_signature(line) || *lf != '\r')
				return -400;
		}
	}
	return 0;
}

/* Signs the trailers in canonical form: a line "name:value" LF each, sorted by name. */
static void
sigv4_trailers_sign(struct sigv4_chain *c, struct sigv4_trailers *t)
{
	struct slice part[4 * SIGV4_TRAILER_FIELDS_MAX];
	unsigned char digest[br_sha256_SIZE];
	size_t n = 0;

	qsort(t->field, t->n, sizeof *t->field, sigv4_order_pairs);
	for (size_t i = 0; i < t->n; i++) {
		part[n++] = t->field[i].name;
		part[n++] = SLICE(":");
		part[n++] = t->field[i].value;
		part[n++] = SLICE("\n");
	}
	tls_sha256_join(part, n, digest);
	sigv4_chain_sign(c, true, digest);
}

/* -- private keys: reading PEM and DER */

/* What may be told of a private key. Strings are static. */
struct key_info {
	const char *type;       /* "rsa", "ec", "ed25519", "ed448"; NULL: encrypted, so not known */
	const char *format;     /* "pkcs8", "pkcs1" (RFC 8017), "sec1" (RFC 5915) */
	const char *curve;      /* NULL: has none */
	unsigned bits;
	bool encrypted;
};

/* `oid`: the curve's OBJECT IDENTIFIER, as a DER element. */
static const struct key_curve { int id; const char *name; unsigned bits; unsigned char oid[10]; } key_curves[] = {
	{BR_EC_secp256r1, "P-256", 256, {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}},
	{BR_EC_secp384r1, "P-384", 384, {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}},
	{BR_EC_secp521r1, "P-521", 521, {0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}},
};

/* NULL: a curve that we do not use. */
static const struct key_curve *
key_curve_of(const br_ec_private_key *sk)
{
	for (size_t i = 0; i < COUNT(key_curves); i++)
		if (key_curves[i].id == sk->curve)
			return &key_curves[i];
	return NULL;
}

/* PKCS#8 keys that BearSSL does not read, told by the AlgorithmIdentifier (RFC 8410 3). */
static const struct { char id[8]; const char *name; unsigned bits; } key_others[] = {
	{"\x30\x05\x06\x03\x2b\x65\x70", "ed25519", 256},
	{"\x30\x05\x06\x03\x2b\x65\x71", "ed448",   456},
};

/* Reads the outermost elements. NULL, or a code: why `der` cannot be a private key. */
static const char *
key_judge_head(struct slice der, struct key_info *info)
{
	struct slice seq, body, whole;
	uint8_t tag;

	if (der.n < 16 || !der_expect(&der, 0x30, &seq, NULL))
		return "malformed";
	if (der_expect(&seq, 0x30, &body, NULL)) {
		if (body.n == 0 || body.p[0] != 0x06)
			return "no_private_key";  /* a certificate begins so too, without the OID */
		info->format = "pkcs8";          /* RFC 5958 3: EncryptedPrivateKeyInfo */
		info->encrypted = true;
		return NULL;
	}
	if (!der_expect(&seq, 0x02, &body, NULL) || body.n != 1 || (uint8_t)body.p[0] > 1 ||
	    !der_next(&seq, &tag, &body, &whole) || (tag != 0x02 && tag != 0x04 && tag != 0x30))
		return "malformed";
	info->format = tag == 0x02 ? "pkcs1" : tag == 0x04 ? "sec1" : "pkcs8";
	for (size_t o = 0; o < COUNT(key_others); o++)
		if (whole.n == 7 && memcmp(whole.p, key_others[o].id, 7) == 0) {
			info->type = key_others[o].name;
			info->bits = key_others[o].bits;
		}
	return NULL;
}

/* Decodes a key. NULL, or a code of key_read. */
static const char *
key_judge(struct slice der, br_skey_decoder_context *key, struct key_info *info)
{
	const char *why = key_judge_head(der, info);
	const struct key_curve *curve;
	int err;

	if (why != NULL || info->encrypted || info->type != NULL)
		return why;
	br_skey_decoder_push(key, der.p, der.n);
	switch (br_skey_decoder_key_type(key)) {
	case BR_KEYTYPE_RSA:
		info->type = "rsa";
		info->bits = br_skey_decoder_get_rsa(key)->n_bitlen;
		return NULL;
	case BR_KEYTYPE_EC:
		info->type = "ec";
		if ((curve = key_curve_of(br_skey_decoder_get_ec(key))) == NULL)
			return "unsupported";
		info->curve = curve->name;
		info->bits = curve->bits;
		return NULL;
	default:
		err = br_skey_decoder_last_error(key);
		return err == BR_ERR_X509_UNSUPPORTED || err == BR_ERR_X509_LIMIT_EXCEEDED ?
		    "unsupported" : "malformed";
	}
}

/* Reads one private key, PEM or DER, into `key`, which the caller wipes; with `key` NULL for `info`
 * alone. Returns NULL if `key` holds an RSA or EC key, or a code:
 *   not_a_key         neither PEM nor DER
 *   malformed
 *   unsupported       another kind, or too large
 *   openssh_format
 *   no_private_key    a certificate, or a public key
 *   escaped_newlines  \n spelled out, as JSON has it
 *   json              a JWK, or a key file whole
 *   encrypted         only with `key` */
static const char *
key_read(struct slice in, br_skey_decoder_context *key, struct key_info *info)
{
	br_skey_decoder_context own;
	struct slice rest = in, name = SLICE("");
	struct buf der;
	const char *why;
	size_t lead = 0;
	int found;

	*info = (struct key_info){0};
	if (key == NULL)
		key = &own;
	br_skey_decoder_init(key);
	buf_init(&der, in.n);
	while (lead < in.n && in.p[lead] != '\0' && strchr(" \t\r\n", in.p[lead]) != NULL)
		lead++;
	if (in.n != 0 && in.p[0] == 0x30) {     /* DER: a SEQUENCE; no PEM text begins with "0" */
		why = key_judge(in, key, info);
	} else if (lead < in.n && in.p[lead] == '{') {  /* a JWK, or the file that a PEM key came in */
		why = "json";
	} else if (!slice_has(in, SLICE("-----BEGIN "))) {
		why = "not_a_key";
	} else if (slice_has(in, SLICE("-----\\n"))) {
		why = "escaped_newlines";
	} else if ((found = pem_next(&rest, SLICE("PRIVATE KEY"), &name, &der)) == 0) {
		why = "no_private_key";
	} else if (slice_begins_nocase(name, SLICE("BEGIN OPENSSH"))) {
		why = "openssh_format";
	} else if (found > 0) {
		why = key_judge(buf_slice(&der), key, info);
	} else if (!slice_has(in, SLICE("Proc-Type: 4,ENCRYPTED"))) {
		why = "malformed";
	} else {        /* OpenSSL's old encryption puts fields before the base64 (RFC 1421 4.6.1.1) */
		info->format = slice_has(in, SLICE("BEGIN EC")) ? "sec1" : "pkcs1";
		info->encrypted = true;
		why = NULL;
	}
	buf_free(&der);
	if (key == &own)
		wipe(&own, sizeof own);
	else if (why == NULL && br_skey_decoder_key_type(key) == 0)
		why = info->encrypted ? "encrypted" : "unsupported";
	return why;
}

/* -- signatures of JWS (RFC 7518 3): HMAC, RSASSA-PKCS1-v1_5, and ECDSA as R and S, one behind the
 * other. */
#define SIGN_MAX 512            /* RSA of 4096 bits: BearSSL's largest, here */
#define SIGN_RSA_MIN 2048       /* bits, RFC 7518 3.3: "a key of size 2048 bits or larger MUST be used" */
#define SIGN_SPKI_MAX 600       /* the public half of that RSA key, as DER */

enum sign_kind { SIGN_HMAC, SIGN_RSA, SIGN_EC };

static const struct sign_alg {
	const char *name;
	enum sign_kind kind;
	const struct sign_hash *hash;
	int curve;                      /* of SIGN_EC */
	size_t n;                       /* bytes of a signature; of SIGN_RSA the key says */
	unsigned char oid[12];          /* of SIGN_RSA: the hash, length first, as BearSSL takes it */
} sign_algs[] = {       /* `none` and PS256 are not among them on purpose */
	{"HS256", SIGN_HMAC, &sign_hashes[0], 0, 32, {0}},
	{"HS384", SIGN_HMAC, &sign_hashes[2], 0, 48, {0}},
	{"HS512", SIGN_HMAC, &sign_hashes[3], 0, 64, {0}},
	{"RS256", SIGN_RSA, &sign_hashes[0], 0, 0, {9, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01}},
	{"RS384", SIGN_RSA, &sign_hashes[2], 0, 0, {9, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02}},
	{"RS512", SIGN_RSA, &sign_hashes[3], 0, 0, {9, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03}},
	{"ES256", SIGN_EC, &sign_hashes[0], BR_EC_secp256r1, 64, {0}},
	{"ES384", SIGN_EC, &sign_hashes[2], BR_EC_secp384r1, 96, {0}},
};

#define SIGN_RS256 (&sign_algs[3])

/* key_read of a key that `a` (RSA or EC) can sign with; *n is a signature's length. Two codes more:
 * "wrong_key" (another kind or curve) and "weak_key". */
static const char *
sign_key_read(const struct sign_alg *a, struct slice in, br_skey_decoder_context *key, size_t *n)
{
	struct key_info info;
	const char *why = key_read(in, key, &info);
	bool rsa = a->kind == SIGN_RSA;

	*n = rsa ? (info.bits + 7) / 8 : a->n;
	if (why != NULL)
		return why;
	if (info.curve != NULL && strcmp(info.curve, "P-521") == 0)
		return "unsupported";
	if (strcmp(info.type, rsa ? "rsa" : "ec") != 0 || (!rsa && br_skey_decoder_get_ec(key)->curve != a->curve))
		return "wrong_key";
	return !rsa ? NULL : info.bits < SIGN_RSA_MIN ? "weak_key" : *n > SIGN_MAX ? "unsupported" : NULL;
}

/* Public exponents in use. BearSSL's decoder drops the key's own, and computes it again only where
 * both primes are 3 mod 4. */
static const uint32_t sign_rsa_exps[] = {
	65537, 3, 17,           /* FIPS 186-5 wants the first; the others were common before */
	5, 35, 37, 257,         /* OpenSSH's and PuTTY's of old */
	0,                      /* computed */
};

/* Signs a hash, and verifies the signature before it leaves: one made with a key whose parts do not
 * belong together gives the primes away (Boneh, DeMillo, Lipton 1997). Fills *pk, the public half,
 * whose n and e have room for SIGN_MAX and 4 bytes. */
static bool
sign_rsa(const struct sign_alg *a, const br_rsa_private_key *sk, const unsigned char *hash,
    unsigned char *sig, br_rsa_public_key *pk)
{
	unsigned char back[SIGN_DIGEST_MAX];
	size_t n = br_rsa_compute_modulus_get_default()(NULL, sk);

	if (n == 0 || n > SIGN_MAX || br_rsa_compute_modulus_get_default()(pk->n, sk) != n ||
	    br_rsa_pkcs1_sign_get_default()(a->oid, hash, a->hash->n, sk, sig) != 1)
		return false;
	pk->nlen = n;
	pk->elen = 4;
	for (size_t i = 0; i < COUNT(sign_rsa_exps); i++) {
		uint32_t e = sign_rsa_exps[i] != 0 ? sign_rsa_exps[i] : br_rsa_compute_pubexp_get_default()(sk);

		store_be32(pk->e, e);
		if (e != 0 && br_rsa_pkcs1_vrfy_get_default()(sig, n, a->oid, a->hash->n, pk, back) == 1 &&
		    memcmp(back, hash, a->hash->n) == 0)
			return true;
	}
	return false;
}

/* Signs `data` with the key in `in`. `sig` has room for SIGN_MAX bytes, of which *n are the
 * signature. NULL, or a code: sign_key_read's, or "bad_key". */
static const char *
sign_make(const struct sign_alg *a, struct slice in, struct slice data, unsigned char *sig, size_t *n)
{
	br_skey_decoder_context key;
	unsigned char hash[SIGN_DIGEST_MAX], modulus[SIGN_MAX], e[4];
	br_rsa_public_key pk = {.n = modulus, .e = e};
	const char *why;
	bool ok;

	*n = a->n;
	if (a->kind == SIGN_HMAC) {
		sign_hmac(a->hash, in, &data, 1, sig);
		return NULL;
	}
	why = sign_key_read(a, in, &key, n);
	if (why == NULL) {
		sign_digest(a->hash, data, hash);
		if (a->kind == SIGN_RSA)
			ok = sign_rsa(a, br_skey_decoder_get_rsa(&key), hash, sig, &pk) && pk.nlen == *n;
		else    /* RFC 6979: the nonce comes from key and message, so no random number gives the key away */
			ok = br_ecdsa_sign_raw_get_default()(br_ec_get_default(), a->hash->hash, hash,
			    br_skey_decoder_get_ec(&key), sig) == *n;
		wipe(hash, sizeof hash);        /* `data` may be secret */
		why = ok ? NULL : "bad_key";
	}
	wipe(&key, sizeof key);
	if (why != NULL)
		*n = 0;
	return why;
}

/* -- the public half of a private key: SubjectPublicKeyInfo, written backwards */

/* RFC 5480 2: AlgorithmIdentifier with the curve, and the point as a BIT STRING. */
static bool
key_public_ec(const br_ec_private_key *sk, struct der *d)
{
	uint8_t buf[BR_EC_KBUF_PUB_MAX_SIZE];
	const struct key_curve *curve = key_curve_of(sk);
	const uint8_t *end = d->at, *mark;
	br_ec_public_key pk;

	if (curve == NULL || br_ec_compute_pub(br_ec_get_default(), &pk, buf, sk) == 0)
		return false;
	der_put(d, pk.q, pk.qlen);
	der_byte(d, 0);
	der_wrap(d, 0x03, end);
	mark = d->at;
	der_put(d, curve->oid, 2u + curve->oid[1]);
	der_put(d, "\x06\x07\x2a\x86\x48\xce\x3d\x02\x01", 9);
	der_wrap(d, 0x30, mark);
	return true;
}

static void
der_unsigned(struct der *d, const unsigned char *p, size_t n)
{
	const uint8_t *end = d->at;

	while (n > 1 && *p == 0) {
		p++;
		n--;
	}
	der_put(d, p, n);
	if (*p >= 0x80)
		der_byte(d, 0);
	der_wrap(d, 0x02, end);
}

/* RFC 3279 2.3.1: rsaEncryption, and RSAPublicKey in a BIT STRING. */
static bool
key_public_rsa(const br_rsa_private_key *sk, struct der *d)
{
	static const unsigned char hash[SIGN_DIGEST_MAX];  /* zeros: verifying their signature finds e */
	unsigned char n[SIGN_MAX], e[4], sig[SIGN_MAX];
	const struct sign_alg *a = SIGN_RS256;
	br_rsa_public_key pk = {.n = n, .e = e};
	const uint8_t *end = d->at;
	bool ok = sign_rsa(a, sk, hash, sig, &pk);

	wipe(sig, sizeof sig);
	if (!ok)
		return false;
	der_unsigned(d, e, sizeof e);
	der_unsigned(d, n, pk.nlen);
	der_wrap(d, 0x30, end);
	der_byte(d, 0);
	der_wrap(d, 0x03, end);
	der_put(d, "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00", 15);
	return true;
}

/* Writes the SubjectPublicKeyInfo (RFC 5280 4.1.2.7) of a key that key_read took: from d->at to the end
 * of the room. False: there is none, or parts of an RSA key do not belong together. */
static bool
key_put_public(const br_skey_decoder_context *key, struct der *d)
{
	const uint8_t *end = d->at;
	bool ok = br_skey_decoder_key_type(key) == BR_KEYTYPE_RSA ?
	    key_public_rsa(br_skey_decoder_get_rsa(key), d) : key_public_ec(br_skey_decoder_get_ec(key), d);

	der_wrap(d, 0x30, end);
	return ok && d->at != NULL;
}

/* The same of a key's text. NULL, or a code of key_read. */
static const char *
key_public(struct slice in, struct der *d)
{
	br_skey_decoder_context key;
	struct key_info info;
	const char *why = key_read(in, &key, &info);

	if (why == NULL && !key_put_public(&key, d))
		why = "unsupported";
	wipe(&key, sizeof key);
	return why;
}

/* -- stand-in keys: RSA keys that a sandbox's SDK signs assertions with in the place of the real
 * key. Such an assertion is answered with a placeholder (lua/stand_in.lua); anywhere else the key
 * is worth nothing. */
#define STAND_IN_BITS 2048u
#define STAND_IN_DER (2 * STAND_IN_BITS / 2)

/* Writes a new key to `der` as PKCS#8 (RFC 5958). Returns its length; 0: no randomness. */
static size_t
stand_in_key_make(unsigned char der[STAND_IN_DER])
{
	br_hmac_drbg_context rng;
	br_rsa_private_key sk;
	br_rsa_public_key pk;
	unsigned char priv[BR_RSA_KBUF_PRIV_SIZE(STAND_IN_BITS)], pub[BR_RSA_KBUF_PUB_SIZE(STAND_IN_BITS)];
	unsigned char d[STAND_IN_BITS / 8], seed[48];
	size_t dn;

	if (!rand_bytes(seed, sizeof seed))
		return 0;
	br_hmac_drbg_init(&rng, &br_sha256_vtable, seed, sizeof seed);
	if (br_rsa_keygen_get_default()(&rng.vtable, &sk, priv, &pk, pub, STAND_IN_BITS, 65537) &&
	    (dn = br_rsa_compute_privexp_get_default()(d, &sk, 65537)) != 0 &&
	    pk.nlen == STAND_IN_BITS / 8 &&
	    br_encode_rsa_pkcs8_der(NULL, &sk, &pk, d, dn) <= STAND_IN_DER)
		return br_encode_rsa_pkcs8_der(der, &sk, &pk, d, dn);
	return 0;
}

/* ---- ident -----------------------------------------------------------------
 * A credential's own TLS (struct tls_ident), made from its record: a certificate to show and its
 * key, roots of its own, or pins. Skip it unless credentials have client_cert, client_key, ca or
 * tls=legacy.
 *
 * Invariants. A record is judged the same way when it is saved and when it is opened. An identity
 * with one fault is not made at all. The key lives in the arena, belongs to the first certificate,
 * and an RSA key has signed once before a server sees its signature. */
#define IDENT_PEM_MAX 65536     /* of each text; real chains are under 20 KB */
#define IDENT_TAG "sallyport identity 1"
#define IDENT_PINS SLICE("pins:")        /* what pins begin with (lua/identity.lua), 32 bytes each */

struct ident_fault {            /* static texts: the field, and a code */
	const char *field, *code;
};

/* Reads the certificates to show. NULL, or a code. A private key among them is refused, because the
 * store keeps `client_cert` as plain text. */
static const char *
ident_read_chain(struct tls_ident *id, struct slice pem)
{
	struct cert_view v;
	struct slice name;
	struct buf one;
	int found;

	if (pem.n > IDENT_PEM_MAX)
		return "too_large";
	if (slice_has(pem, SLICE("PRIVATE KEY-----")))
		return "private_key";
	if (!buf_reserve(&id->der, pem.n))      /* PEM is longer than its DER: `der` never moves */
		return "no_memory";
	buf_init(&one, IDENT_PEM_MAX);
	while ((found = pem_next(&pem, SLICE("BEGIN CERTIFICATE"), &name, &one)) > 0 && id->chain_n != TLS_CHAIN_MAX) {
		id->chain[id->chain_n++] =
		    (br_x509_certificate){(unsigned char *)id->der.p + id->der.n, one.n};
		if (!cert_read(buf_slice(&one), &v) || !buf_addv(&id->der, buf_slice(&one))) {
			found = -1;
			break;
		}
	}
	buf_free(&one);
	if (found != 0)
		return found > 0 ? "too_many" : "malformed";
	return id->chain_n == 0 ? "no_certificate" : NULL;
}

/* Reads the key of the first certificate. NULL, or a code. The decoded key lies in the arena, and
 * is wiped with its block. It is the certificate's if its public half is, byte by byte. */
static const char *
ident_read_key(struct tls_ident *id, struct slice text)
{
	struct slice der = {(const char *)id->chain[0].data, id->chain[0].data_len};
	uint8_t room[SIGN_SPKI_MAX];
	struct der own = {room, room + sizeof room};
	br_skey_decoder_context *key;
	br_x509_decoder_context dc;
	struct key_info info;
	struct cert_view v;
	const char *why;
	int err;

	if ((id->key = secret_new(sizeof *key)) == NULL || (id->key_text = secret_copy(text.p, text.n)) == NULL)
		return "no_memory";
	key = (void *)id->key->p;
	if ((why = key_read(text, key, &info)) != NULL)
		return why;
	if (!cert_read(der, &v) || ((err = cert_key(&v, &dc)) != 0 && err != BR_ERR_X509_WEAK_PUBLIC_KEY))
		return "unsupported";
	if (!key_put_public(key, &own))
		return "malformed";
	return slice_eq(v.spki, (struct slice){(char *)own.at, (size_t)(room + sizeof room - own.at)}) ?
	    NULL : "mismatch";
}

/* Reads roots, or pins. NULL, or a code. Each root is trusted as itself too: a server that shows
 * that very certificate needs no issuer. */
static const char *
ident_read_ca(struct tls_ident *id, struct slice ca)
{
	if (ca.n > IDENT_PEM_MAX)
		return "too_large";
	if (ca.n > IDENT_PINS.n && slice_eq((struct slice){ca.p, IDENT_PINS.n}, IDENT_PINS)) {
		id->pinned = (ca.n - IDENT_PINS.n) % 32 == 0;
		return id->pinned && buf_add(&id->itself, ca.p + IDENT_PINS.n, ca.n - IDENT_PINS.n) ? NULL : "malformed_pin";
	}
	if (slice_has(ca, SLICE("PRIVATE KEY-----")))
		return "private_key";
	if ((id->roots = trust_new()) == NULL)
		return "no_memory";
	if (!trust_add_pem(id->roots, ca, &id->itself))
		return "malformed";
	return id->roots->n == 0 ? "no_certificate" : NULL;
}

/* Each text may be absent (n == 0), but `cert` and `key` only together. NULL: `fault` says why. The
 * tag is the SHA-256 of what the identity shows and trusts, so a renewed certificate makes another
 * identity:
 *   offset  bytes
 *   0       21     IDENT_TAG, with its NUL
 *   21      4      d, bytes of the certificates
 *   25      4      t, bytes of the hashes
 *   29      4      1: pinned; 2: legacy
 *   33      d      the certificates to show, DER
 *   33+d    t      SHA-256 of each certificate or key that is trusted as itself, roots too */
static struct tls_ident *
ident_new(struct slice cert, struct slice key, struct slice ca, bool legacy,
    struct ident_fault *fault)
{
	struct tls_ident *id = calloc(1, sizeof *id);
	uint8_t head[12];

	*fault = (struct ident_fault){"client_cert", "no_memory"};
	if (id == NULL)
		return NULL;
	*id = (struct tls_ident){.refs = 1, .legacy = legacy, .der.max = TLS_CHAIN_MAX * TLS_CERT_MAX,
	    .itself.max = IDENT_PEM_MAX};
	fault->code = cert.n != 0 ? ident_read_chain(id, cert) : key.n != 0 ? "missing" : NULL;
	if (fault->code == NULL && cert.n != 0) {
		fault->field = "client_key";
		fault->code = key.n == 0 ? "missing" : ident_read_key(id, key);
	}
	if (fault->code == NULL && ca.n != 0) {
		fault->field = "ca";
		fault->code = ident_read_ca(id, ca);
	}
	if (fault->code != NULL) {
		tls_ident_unref(id);
		return NULL;
	}
	store_be32(head, (uint32_t)id->der.n);
	store_be32(head + 4, (uint32_t)id->itself.n);
	store_be32(head + 8, id->pinned | id->legacy << 1);
	tls_sha256_join((const struct slice[]){{IDENT_TAG, sizeof IDENT_TAG},
	    {(const char *)head, sizeof head}, buf_slice(&id->der), buf_slice(&id->itself)}, 4, id->tag);
	return id;
}

/* ---- filter: sigv4 ---------------------------------------------------------
 * A filter of a flow: a body in AWS's signed chunks (aws-chunked; the layout stands in `sign`),
 * signed anew as it streams. Skip it unless you use S3 uploads.
 *
 * Invariants. Only the 64 hexadecimal digits of each signature change. A chunk's signature stands
 * before its data, so a chunk is held until it is whole, hashed as it comes: at most
 * SIGV4_CHUNK_MAX of data, within what its agent may hold (bodies_count). A client's signature is not
 * verified. */
enum sigv4_at { SIGV4_HEAD, SIGV4_DATA, SIGV4_TRAILERS, SIGV4_DONE };

struct filter_sigv4 {
	struct filter f;
	struct sigv4_chain chain;
	br_sha256_context hash; /* of the data of this chunk so far */
	enum sigv4_at at;
	bool trailer;
	char *held;             /* owned, counted: a chunk with its head and CR LF, or the trailers */
	struct wirebuf *small;  /* owned; holds `held` if that fits; NULL: `held` is malloc's */
	size_t cap, n;
	size_t signature;       /* where the chunk's signature begins in `held` */
	size_t data_end;        /* where its data ends there */
	size_t given;           /* bytes of `held` that went out, once the chunk is whole */
	bool whole;
};

static const struct filter_fault filter_chunk_large = {413, "body_too_large",
    "a signed chunk is larger than 1 MiB, and has to be held whole to be signed again",
    "set the chunk size of the SDK's signer to at most 1 MiB, or have it sign no chunks "
    "(Java: chunkedEncodingEnabled(false); .NET: UseChunkEncoding = false)"};
static const struct filter_fault filter_no_memory = {503, "injection_unavailable",
    "too many bodies are held for signing", "try again"};

static void
filter_sigv4_drop(struct filter_sigv4 *s)
{
	bodies_count(s->f.share, s->cap, 0);
	if (s->small != NULL)
		s->small->n = sizeof s->small->p;       /* wirebuf_put wipes n bytes */
	else
		free(s->held);
	wirebuf_put(&s->small, true);
	s->held = NULL;
	s->cap = s->n = 0;
}

/* Makes room for n bytes in s->held, of which the first s->n stay. Chunks of 64 KiB, the usual
 * size, lie in a wirebuf: malloc would give a block of that size back to the kernel each time, and
 * fault its pages in again. */
static bool
filter_sigv4_hold(struct filter_sigv4 *s, size_t n)
{
	size_t had = s->n, cap = n < sizeof s->small->p ? sizeof s->small->p : n;
	struct wirebuf *small = NULL;
	bool fits;
	char *p;

	if (n <= s->cap)
		return true;
	if ((fits = bodies_count(s->f.share, 0, cap)) && cap == sizeof s->small->p)
		small = wirebuf_get();
	p = small != NULL ? small->p : fits ? malloc(cap) : NULL;
	if (p == NULL) {
		bodies_count(s->f.share, fits ? cap : 0, 0);
		s->f.fault = &filter_no_memory;
		return false;
	}
	if (had != 0)
		memcpy(p, s->held, had);
	filter_sigv4_drop(s);
	s->held = p;
	s->small = small;
	s->n = had;
	s->cap = cap;
	return true;
}

/* Copies up to n bytes of `in` to s->held. Returns their number. */
static size_t
filter_sigv4_take(struct filter_sigv4 *s, struct slice in, size_t n)
{
	if (n > in.n)
		n = in.n;
	memcpy(s->held + s->n, in.p, n);
	s->n += n;
	return n;
}

/* A chunk's head. This and the next ones return the bytes of `in` that they took; -1: malformed, or
 * s->f.fault. */
static ssize_t
filter_sigv4_head(struct filter_sigv4 *s, struct slice in)
{
	size_t before = s->n, size = 0;
	ssize_t n;

	if (!filter_sigv4_hold(s, SIGV4_LINE_MAX))
		return -1;
	filter_sigv4_take(s, in, SIGV4_LINE_MAX - s->n);
	n = sigv4_chunk_head((struct slice){s->held, s->n}, &size);
	if (n == 0)
		return (ssize_t)(s->n - before);
	if (n == -413)
		s->f.fault = &filter_chunk_large;
	if (n < 0)
		return -1;
	s->n = (size_t)n;
	if (!filter_sigv4_hold(s, (size_t)n + size + 2))
		return -1;
	s->signature = (size_t)n - 66;
	s->data_end = (size_t)n + size;
	br_sha256_init(&s->hash);
	s->at = size == 0 && s->trailer ? SIGV4_TRAILERS : SIGV4_DATA;
	return n - (ssize_t)before;
}

/* Writes the signature of a chunk whose data is complete. That costs as much as hashing some 512
 * bytes, which are added to f.cost: chunks of one byte must not make a turn ten times as long. */
static void
filter_sigv4_sign(struct filter_sigv4 *s)
{
	unsigned char digest[br_sha256_SIZE];

	s->f.cost += 512;
	br_sha256_out(&s->hash, digest);
	sigv4_chain_sign(&s->chain, false, digest);
	memcpy(s->held + s->signature, s->chain.last, 64);
	s->whole = true;
}

/* A chunk's data, hashed as it comes, and the CR LF behind it. */
static ssize_t
filter_sigv4_data(struct filter_sigv4 *s, struct slice in)
{
	size_t left = s->n < s->data_end ? s->data_end - s->n : 0;
	size_t n = filter_sigv4_take(s, in, s->data_end + 2 - s->n);

	br_sha256_update(&s->hash, in.p, n < left ? n : left);
	if (s->n > s->data_end && memcmp(s->held + s->data_end, "\r\n", s->n - s->data_end) != 0)
		return -1;
	if (s->n == s->data_end + 2) {
		filter_sigv4_sign(s);
		s->at = s->data_end != s->signature + 66 ? SIGV4_HEAD : SIGV4_DONE; /* the last has no data */
	}
	return (ssize_t)n;
}

/* The trailers, parsed from their begin at the end of each line. The last chunk's head lies before
 * them in s->held, and goes out with them. */
static ssize_t
filter_sigv4_trailers(struct filter_sigv4 *s, struct slice in)
{
	const char *lf = memchr(in.p, '\n', in.n);
	size_t n = lf == NULL ? in.n : (size_t)(lf - in.p) + 1;
	struct sigv4_trailers t;
	ssize_t used;

	if (n > s->data_end + SIGV4_TRAILERS_MAX - s->n ||
	    !filter_sigv4_hold(s, s->data_end + SIGV4_TRAILERS_MAX))
		return -1;
	filter_sigv4_take(s, in, n);
	used = sigv4_trailers_parse((struct slice){s->held + s->data_end, s->n - s->data_end}, &t);
	if (used < 0)
		return -1;
	if (used != 0) {
		filter_sigv4_sign(s);
		sigv4_trailers_sign(&s->chain, &t);
		memcpy(s->held + (t.signature.p - s->held), s->chain.last, 64);
		s->at = SIGV4_DONE;
	}
	return (ssize_t)n;
}

static ssize_t
filter_sigv4_run(struct filter *f, struct slice in, bool end, struct slice *out)
{
	struct filter_sigv4 *s = (struct filter_sigv4 *)f;
	size_t used = 0;

	while (!s->whole && used < in.n) {
		struct slice rest = {in.p + used, in.n - used};
		ssize_t n = s->at == SIGV4_HEAD ? filter_sigv4_head(s, rest) :
		    s->at == SIGV4_DATA ? filter_sigv4_data(s, rest) :
		    s->at == SIGV4_TRAILERS ? filter_sigv4_trailers(s, rest) : -1; /* bytes behind the end */

		if (n < 0)
			return -1;
		used += (size_t)n;
	}
	if (s->whole) {                 /* the chunk goes out before more is taken */
		size_t n = s->n - s->given < PEER_PIECE ? s->n - s->given : PEER_PIECE;

		*out = (struct slice){s->held + s->given, n};
		s->given += n;
		s->whole = f->more = s->given != s->n;
		if (!s->whole)
			s->n = s->given = 0;
	}
	if (!end || used != in.n || s->whole)
		return (ssize_t)used;
	if (s->at != SIGV4_DONE)
		return -1;              /* cut short */
	f->more = out->n != 0;          /* *out lies in `held`: dropped in the next run */
	f->ended = !f->more;
	if (f->ended)
		filter_sigv4_drop(s);
	return (ssize_t)used;
}

static void
filter_sigv4_wipe(struct filter *f)
{
	struct filter_sigv4 *s = (struct filter_sigv4 *)f;

	filter_sigv4_drop(s);
	wipe(&s->chain, sizeof s->chain);
}

/* For the body of a request whose seed signature is chain->last. NULL: out of memory. */
static struct filter *
filter_sigv4_new(const struct sigv4_chain *chain, bool trailer)
{
	static const struct filter_class class = {
	    sizeof(struct filter_sigv4), true, false, filter_sigv4_run, filter_sigv4_wipe};
	struct filter *f = filter_alloc(&class);

	if (f != NULL) {
		((struct filter_sigv4 *)f)->chain = *chain;
		((struct filter_sigv4 *)f)->trailer = trailer;
	}
	return f;
}

/* ---- filter: ws ------------------------------------------------------------
 * The proof of a WebSocket's handshake (RFC 6455), and a filter of a flow: the messages that the client
 * sends, in which rows put secrets for placeholders. Skip it unless a row names `ws=`.
 *
 * Invariants. A text message of at most SUBST_WS_MAX is held until it is whole. Unless the message
 * is JSON and a placeholder stood where a row says, its frames go on as they came; else it goes on
 * as one frame. Control frames overtake it, other frames follow it. What breaks RFC 6455 goes on
 * too, for the server to judge. A frame (RFC 6455 5.2; numbers are big-endian):
 *
 *   offset  bytes
 *   0       1        0x80 FIN, 0x70 RSV, 0x0f opcode: 0 continuation, 1 text, 2 binary, 8.. control
 *   1       1        0x80 MASK, 0x7f payload length; 126, 127: the extended one counts
 *   2       0, 2, 8  extended payload length
 *   then    0, 4     masking key, with MASK
 *   then    length   payload, each byte XOR byte i % 4 of the masking key */
struct filter_ws {
	struct filter f;
	const struct subst *s;  /* borrowed from the req */
	struct buf held;        /* owned; the frames of a text message, as they came */
	struct buf out;         /* owned; frames that go on */
	size_t given;           /* bytes of `out` that went on */
	unsigned char head[14]; /* of the frame that arrives */
	size_t head_n;
	uint64_t left;          /* bytes of its payload still to come */
	bool payload;           /* its head is whole */
	bool hold;              /* it is added to `held` */
	bool last;              /* it ends its message */
	bool text;              /* `held` has the begin of a message */
};

/* The length of a frame's head, as far as its first n bytes tell. *len: the payload's length, once
 * the head is whole. */
static size_t
filter_ws_head(const unsigned char *h, size_t n, uint64_t *len)
{
	size_t extra, need;

	if (n < 2)
		return 2;
	extra = (h[1] & 127) == 126 ? 2 : (h[1] & 127) == 127 ? 8 : 0;
	need = 2 + extra + ((h[1] & 128) != 0 ? 4 : 0);
	if (n >= need)
		*len = extra == 2 ? load_be16(h + 2) : extra == 8 ? load_be64(h + 2) : h[1] & 127;
	return need;
}

/* Adds a payload, masked or unmasked with `key`: XOR is both. */
static void
filter_ws_mask(struct buf *out, struct slice payload, const unsigned char key[4])
{
	if (payload.n == 0 || !buf_addv(out, payload))
		return;
	for (size_t i = 0; i < payload.n; i++)
		out->p[out->n - payload.n + i] ^= (char)key[i & 3];
}

/* Lets the held frames go on as they came. */
static void
filter_ws_release(struct filter_ws *w)
{
	buf_addv(&w->out, buf_slice(&w->held));
	buf_clear(&w->held);
	w->text = false;
}

/* Adds a message as one text frame, with a new random masking key (RFC 6455 5.3). */
static void
filter_ws_put(struct buf *out, struct slice text)
{
	size_t extra = text.n > 0xffff ? 8 : text.n > 125 ? 2 : 0;      /* bytes of the extended length */
	unsigned char head[14] = {0x81, (unsigned char)(0x80 | (extra == 8 ? 127 : extra == 2 ? 126 : text.n))};

	store_be(head + 2, extra, text.n);
	out->bad |= !rand_bytes(head + 2 + extra, 4);
	buf_add(out, head, 2 + extra + 4);
	filter_ws_mask(out, text, head + 2 + extra);
}

/* The held message is whole: adds it with its placeholders replaced, or as it came. */
static void
filter_ws_message(struct filter_ws *w)
{
	const unsigned char *h = (const unsigned char *)w->held.p;
	struct buf text, now;
	struct subst_run t = {.s = w->s, .out = &now};
	bool well;

	buf_init(&text, SUBST_WS_MAX);
	buf_init(&now, SUBST_WS_OUT_MAX);
	for (size_t at = 0; at < w->held.n;) {
		uint64_t len = 0;
		size_t head = filter_ws_head(h + at, w->held.n - at, &len);

		filter_ws_mask(&text, (struct slice){w->held.p + at + head, (size_t)len}, h + at + head - 4);
		at += head + (size_t)len;
	}
	buf_reserve(&text, 1);
	t.in = buf_slice(&text);
	well = subst_json_text(&t, PLACE_WS, 0, t.in.n);
	if (well)
		subst_end(&t);
	w->out.bad |= text.bad || now.bad;
	if (well && t.hits != 0) {
		filter_ws_put(&w->out, buf_slice(&now));
		buf_clear(&w->held);
	}
	filter_ws_release(w);
	buf_free(&text);
	buf_free(&now);
}

/* A frame's head is whole: decides whether the frame is held. */
static void
filter_ws_begin(struct filter_ws *w)
{
	unsigned op = w->head[0] & 15;
	bool text = op == 1 || (op == 0 && w->text);

	w->last = (w->head[0] & 128) != 0;
	/* no extension, masked as it must be, and not too long */
	w->hold = text && (w->head[0] & 0x70) == 0 && (w->head[1] & 128) != 0 && w->left <= SUBST_WS_MAX &&
	    w->left + w->head_n <= SUBST_WS_MAX - (op == 0 ? w->held.n : 0);
	/* Another message, or a Close frame, begins within a message: the server judges that. */
	if (op <= 8 && (op != 0 || (w->text && !w->hold)))
		filter_ws_release(w);
	if (op < 8)
		w->text = w->hold;
	w->out.bad |= !buf_add(w->hold ? &w->held : &w->out, w->head, w->head_n);
	w->head_n = 0;
	w->payload = true;
}

/* Gives the next piece of a filter's own output, of which `given` bytes went. It may be emptied in the next run. */
static void
filter_give(struct filter *f, const struct buf *of, size_t *given, bool end, struct slice *out)
{
	size_t n = of->n - *given < PEER_PIECE ? of->n - *given : PEER_PIECE;

	if (n != 0)
		*out = (struct slice){of->p + *given, n};
	*given += n;
	f->more = n != 0;
	f->ended = end && n == 0;
}

static ssize_t
filter_ws_run(struct filter *f, struct slice in, bool end, struct slice *out)
{
	struct filter_ws *w = (struct filter_ws *)f;
	size_t n, used = 0;

	if (w->given == w->out.n) {
		buf_recycle(&w->out, FLOW_BUF_KEEP);
		w->given = 0;
		f->cost += in.n * (FLOW_PIECE_COST / 16);       /* as if a frame had sixteen bytes */
		while (used < in.n) {
			if (w->payload) {
				n = in.n - used < w->left ? in.n - used : (size_t)w->left;
				w->out.bad |= !buf_add(w->hold ? &w->held : &w->out, in.p + used, n);
				w->left -= n;
				used += n;
			} else {
				w->head[w->head_n++] = (unsigned char)in.p[used++];
				if (filter_ws_head(w->head, w->head_n, &w->left) == w->head_n && w->head_n > 1)
					filter_ws_begin(w);
			}
			if (w->payload && w->left == 0) {
				w->payload = false;
				if (w->hold && w->last)
					filter_ws_message(w);
			}
		}
		if (end)
			filter_ws_release(w);   /* half a message, for the server to judge */
	}
	filter_give(f, &w->out, &w->given, end, out);
	return buf_ok(&w->out) ? (ssize_t)used : -1;
}

static void
filter_ws_wipe(struct filter *f)
{
	buf_free(&((struct filter_ws *)f)->held);
	buf_free(&((struct filter_ws *)f)->out);
}

/* RFC 6455 4.2.2: does the answer prove that the server took this very handshake, with this
 * Sec-WebSocket-Key, for a WebSocket's? */
static bool
websocket_accepted(struct slice key, const struct http_head *answer)
{
	static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
	uint8_t digest[20];
	char want[28];
	br_sha1_context sha;

	if (key.p == NULL || !answer->upgrade ||
	    !slice_eq_nocase(http_value(answer, SLICE("upgrade")), SLICE("websocket")))
		return false;
	br_sha1_init(&sha);
	br_sha1_update(&sha, key.p, key.n);
	br_sha1_update(&sha, guid, sizeof guid - 1);
	br_sha1_out(&sha, digest);
	b64_encode(want, digest, sizeof digest, false);
	return slice_eq(http_value(answer, SLICE("sec-websocket-accept")),
	    (struct slice){want, sizeof want});
}

/* NULL: out of memory. */
static struct filter *
filter_ws_new(const struct subst *s)
{
	static const struct filter_class class = {sizeof(struct filter_ws), false, false, filter_ws_run, filter_ws_wipe};
	struct filter *f = filter_alloc(&class);

	if (f != NULL) {
		((struct filter_ws *)f)->s = s;
		buf_init(&((struct filter_ws *)f)->held, SUBST_WS_MAX);
		buf_init(&((struct filter_ws *)f)->out, SUBST_WS_OUT_MAX + 2 * SUBST_WS_MAX);
	}
	return f;
}

static bool
filter_ws_attach(struct flow *f, const struct subst *s)
{
	bool rows = subst_places(s, 1u << PLACE_WS);

	flow_attach(f, rows ? filter_ws_new(s) : NULL);
	return !rows || f->filter != NULL;
}

/* ---- filter: scrub ---------------------------------------------------------
 * A filter of a flow on the way back: a body in which no attached secret may come back. Skip it after
 * the section scrub, unless you ask what a body loses.
 *
 * Invariants. A byte goes on once no spelling of a value can begin before it, or SCRUB_HOLD_MS later.
 * What is found is overwritten by as many characters, so that lengths, ranges and frames stay true; in an
 * answer that must not change (a digest, a range, a coding) it ends the answer instead. An encoded body
 * is decoded beside the flow and goes on as it came. A spelling of which a part went on is still
 * followed: its rest is overwritten. */
#define SCRUB_HOLD_MIN 8        /* bytes: a shorter beginning may be any word */
#define SCRUB_HOLD_MAX (64 * 1024) /* a spelling of which more is escaped is not followed */
#define SCRUB_HOLD_MS 200
#define SCRUB_LAZY 1024         /* bytes: of a spelling that is so long, not every byte that comes means a search */
#define SCRUB_RATIO 200         /* decoded bytes to one encoded, over the first SCRUB_HOLD_MAX */
#define SCRUB_INFLATE (48 * 1024) /* zlib's state and window (zconf.h: 32 KiB and about 7) */

struct filter_scrub {
	struct filter f;
	struct scrub *s;        /* borrowed from the req */
	const struct scrub_table *t; /* in `s` */
	uint64_t left;          /* bytes that are searched yet; behind them all goes on */
	struct scrub_tally *tally; /* borrowed from the req */
	bool strict;            /* the answer must not change */
	struct buf text;        /* owned; what is searched: a spelling that began, and what came behind it */
	size_t begun;           /* in `text`: no spelling that may go on begins before it */
	size_t seen;            /* bytes behind `begun` that were searched */
	struct buf coded;       /* owned; of an encoded body, what `text` was decoded from */
	size_t gone, ready;     /* bytes of what goes on (filter_scrub_out) that went, and that may go */
	z_stream *z;            /* owned, NULL: not encoded; behind it SCRUB_INFLATE bytes for zlib */
	bool plain;             /* `deflate`, which some servers send without zlib's frame */
	bool over;              /* the encoded text ended; what follows belongs to nothing */
	size_t z_used;          /* of the SCRUB_INFLATE bytes; 0: no stream has begun, or its end came */
	size_t undecoded;       /* of `coded`, the last bytes */
	size_t counted;         /* bytes of memory, as the agent's */
	uint64_t z_in, z_out;
};

static const struct filter_fault filter_scrub_hit = {502, "scrub_hit",
    "the answer repeats the credential, and it has a digest, a range or a coding, so that nothing in it can be replaced",
    "`sallyport credential set NAME scrub=head` lets bodies through unsearched"};
static const struct filter_fault filter_scrub_dear = {502, "scrub_hit",
    "the answer repeats beginnings of the credential so densely that it cannot be searched",
    "`sallyport credential set NAME scrub=head` lets bodies through unsearched"};

static struct buf *
filter_scrub_out(struct filter_scrub *s)
{
	return s->z != NULL ? &s->coded : &s->text;
}

/* Searches s->text, of which the bytes before `gone` went on. False: the answer ends here. */
static bool
filter_scrub_search(struct filter_scrub *s, bool end, size_t gone)
{
	struct scrub_scan z;
	struct scrub_hit hit;
	int64_t debt;

	if (!end && !s->f.hurry && s->seen > SCRUB_LAZY && s->text.n - s->begun - s->seen < s->seen / 8)
		return true;            /* a secret of 3,000 bytes may come in 60,000, one by one */
	scrub_scan_start(&z, s->s, s->t, buf_slice(&s->text), end);
	debt = s->s->debt;
	while (scrub_next(&z, &hit)) {
		bool over = !scrub_note(s->s, s->tally);

		if (over || s->strict || scrub_dear(s->s)) {
			s->f.fault = over ? scrub_fault(s->tally) : scrub_dear(s->s) ? &filter_scrub_dear : &filter_scrub_hit;
			return false;
		}
		scrub_overwrite(&s->s->value[hit.value], &hit, s->text.p,
		    hit.at < gone ? scrub_finish(s->text.p, s->text.n, hit.at, gone) : hit.at);
	}
	s->begun = scrub_begun(&z);
	s->f.cost += s->seen + (uint64_t)(s->s->debt - debt);
	if (s->text.n - s->begun > SCRUB_HOLD_MAX)
		s->begun = s->text.n;
	s->seen = s->text.n - s->begun;
	return true;
}

/* zlib's memory. It allocates at its start alone, so nothing is given back. */
static void *
filter_scrub_alloc(void *p, unsigned n, unsigned size)
{
	struct filter_scrub *s = p;
	size_t all = ((size_t)n * size + 15) & ~(size_t)15, at = s->z_used;

	if (all > SCRUB_INFLATE - at)
		return NULL;
	s->z_used += all;
	return (char *)s->z + ((sizeof *s->z + 15) & ~(size_t)15) + at;
}

static void
filter_scrub_no_free(void *p, void *block)
{
}

/* Begins a member of a gzip body (RFC 1952 2.2), or the one stream of `deflate` (RFC 9110 8.4.1.2). */
static bool
filter_scrub_begin(struct filter_scrub *s, struct slice in)
{
	uint8_t a = (uint8_t)in.p[0], b = in.n > 1 ? (uint8_t)in.p[1] : 0;

	s->z_used = 0;
	s->z->zalloc = filter_scrub_alloc;
	s->z->zfree = filter_scrub_no_free;
	s->z->opaque = s;
	/* 47: zlib's own frame or gzip's; -15: none */
	return inflateInit2(s->z, s->plain && ((a & 15) != 8 || (in.n > 1 && (a << 8 | b) % 31 != 0)) ? -15 : 47) == Z_OK;
}

/* As inflate, of a text that is not encoded. */
static int
filter_scrub_copy(z_stream *z)
{
	uInt n = z->avail_in < z->avail_out ? z->avail_in : z->avail_out;

	memcpy(z->next_out, z->next_in, n);
	z->avail_in -= n;
	z->avail_out -= n;
	return Z_OK;
}

/* Decodes and searches what is left of s->coded, or so much of it as a turn may make (s->f.more). Bytes behind its
 * end belong to nothing, and are searched as they came. False: the answer ends here. */
static bool
filter_scrub_decode(struct filter_scrub *s, bool end)
{
	z_stream *z = s->z;
	uint64_t most = s->z_out + FLOW_TURN_MAX;
	int status;

	while (s->undecoded != 0 || (s->z_used != 0 && z->avail_out == 0)) {
		struct slice in = {s->coded.p + s->coded.n - s->undecoded, s->undecoded};

		if ((s->f.more = s->z_out >= most))
			return true;
		s->over = s->over || (s->z_used == 0 && s->z_out != 0 && (s->plain || *in.p != 0x1f));
		if (s->z_used == 0 && !s->over && !filter_scrub_begin(s, in))
			return false;
		buf_drop(&s->text, s->begun);
		s->begun = 0;
		if (!buf_reserve(&s->text, PEER_PIECE))
			return false;
		z->next_in = (Bytef *)(uintptr_t)in.p;
		z->avail_in = (uInt)in.n;
		z->next_out = (Bytef *)s->text.p + s->text.n;
		z->avail_out = PEER_PIECE;
		/* Z_BLOCK ends behind gzip's header, in which a name or a comment stands as it is: it is searched, too */
		status = s->over ? filter_scrub_copy(z) : inflate(z, z->total_out == 0 ? Z_BLOCK : Z_NO_FLUSH);
		s->undecoded = z->avail_in;
		s->text.n += PEER_PIECE - z->avail_out;
		s->z_out += PEER_PIECE - z->avail_out;
		s->f.cost += PEER_PIECE - z->avail_out;
		if ((status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) ||
		    (!s->over && z->total_out == 0 && !buf_addv(&s->text, (struct slice){in.p, in.n - z->avail_in})) ||
		    (s->z_out > SCRUB_HOLD_MAX && s->z_out / SCRUB_RATIO > s->z_in))
			return false;
		if (status == Z_STREAM_END)
			s->z_used = 0;
		if (!filter_scrub_search(s, false, 0))
			return false;
	}
	return !end || filter_scrub_search(s, true, 0);
}

/* Bytes that are held back go on SCRUB_HOLD_MS after the first of them was. */
static void
filter_scrub_hold(struct filter *f, bool holds)
{
	if (!holds)
		f->hold_until = 0;
	else if (f->hold_until == 0)
		f->hold_until = clock_now() + SCRUB_HOLD_MS;
}

/* Counts the memory of the filter's buffers as the agent's. False: it has no room, and the answer ends. */
static bool
filter_scrub_count(struct filter_scrub *s, size_t n)
{
	bool fits = bodies_count(s->f.share, s->counted, n);

	s->counted = fits ? n : s->counted;
	s->tally->unread = fits && s->z != NULL;
	s->f.fault = fits ? s->f.fault : scrub_fault(s->tally);
	return fits;
}

/* Takes in more of the body and tells, in s->ready, what may go on. False: the answer ends here. */
static bool
filter_scrub_take(struct filter_scrub *s, struct slice in, bool end)
{
	struct buf *to = filter_scrub_out(s);
	size_t drop = s->z == NULL && s->begun < s->gone ? s->begun : s->gone;
	bool hold, ok;

	s->f.hurry = s->f.hurry || in.n >= s->left;     /* nothing behind this piece is searched */
	hold = !end && !s->f.hurry;
	/* where nothing began, a backslash stays: scrub_overwrite asks for it */
	drop -= s->z == NULL && drop != 0 && drop == s->gone && to->p[drop - 1] == '\\';
	buf_drop(to, drop);
	s->gone -= drop;
	if (s->z == NULL)
		s->begun -= drop;
	s->left -= in.n < s->left ? in.n : s->left;
	s->z_in += in.n;
	s->undecoded += in.n;
	s->f.more = false;
	ok = buf_addv(to, in) && (s->z == NULL ? filter_scrub_search(s, end, s->gone) : filter_scrub_decode(s, end)) &&
	    filter_scrub_count(s, s->text.cap + s->coded.cap + (s->z != NULL ? SCRUB_INFLATE : 0));
	hold = s->f.more || (hold && s->text.n - s->begun >= SCRUB_HOLD_MIN);
	s->f.hurry = s->f.more && s->f.hurry;
	s->ready = !hold ? to->n : s->z == NULL && s->begun > s->gone ? s->begun : s->gone;
	filter_scrub_hold(&s->f, s->ready != to->n);
	if (ok && s->z != NULL && to->n > SCRUB_HOLD_MAX)
		ok = false;
	if (!ok && s->f.fault == NULL)
		s->f.fault = scrub_fault(s->tally);
	return ok;
}

static ssize_t
filter_scrub_run(struct filter *f, struct slice in, bool end, struct slice *out)
{
	struct filter_scrub *s = (struct filter_scrub *)f;
	struct buf *to = filter_scrub_out(s);
	size_t n;

	if (s->left == 0 && s->gone == to->n) { /* all that is searched was */
		*out = in;
		f->ended = end;
		return (ssize_t)in.n;
	}
	if (s->gone != s->ready)
		f->more = false;        /* the last of what was held comes now, or there is more of it below */
	else if (!filter_scrub_take(s, in, end))
		return -1;
	n = s->ready - s->gone > PEER_PIECE ? PEER_PIECE : s->ready - s->gone;
	*out = (struct slice){to->p + s->gone, n};
	s->gone += n;
	f->more = f->more || s->gone < s->ready;
	f->ended = end && s->gone == to->n;
	return (ssize_t)in.n;
}

static void
filter_scrub_wipe(struct filter *f)
{
	struct filter_scrub *s = (struct filter_scrub *)f;

	buf_free(&s->text);
	buf_free(&s->coded);
	if (s->z != NULL)
		wipe(s->z, sizeof *s->z + 16 + SCRUB_INFLATE);
	free(s->z);
	bodies_count(f->share, s->counted, 0);
}

/* The common part of both filters. NULL: no memory. */
static struct filter_scrub *
filter_scrub_make(const struct filter_class *class, struct scrub *s, const struct scrub_table *t, struct scrub_tally *tally, size_t *share)
{
	struct filter_scrub *f = (struct filter_scrub *)filter_alloc(class);

	if (f == NULL)
		return NULL;
	f->s = s;
	f->t = t;
	f->tally = tally;
	f->f.share = share;
	buf_init(&f->text, SCRUB_HOLD_MAX + 4 * PEER_PIECE);
	return f;
}

/* A filter that lets no value of `s`, whose table is `t`, pass; both outlive it. `left`: so many bytes are searched.
 * `strict`: a value that is found ends the answer. `coding`: "gzip", "deflate", or "" for none. `share`: of the
 * agent for which memory is counted. NULL: no memory. */
static struct filter *
filter_scrub_new(struct scrub *s, const struct scrub_table *t, uint64_t left, bool strict, struct slice coding, struct scrub_tally *tally,
    size_t *share)
{
	static const struct filter_class class = {sizeof(struct filter_scrub), true, true, filter_scrub_run, filter_scrub_wipe};
	struct filter_scrub *f = filter_scrub_make(&class, s, t, tally, share);

	if (f == NULL)
		return NULL;
	f->left = left;
	f->strict = strict || coding.n != 0;
	f->plain = coding.n == 7;       /* deflate */
	buf_init(&f->coded, SCRUB_HOLD_MAX + 2 * PEER_PIECE);
	if (coding.n == 0 || ((f->z = calloc(1, sizeof *f->z + 16 + SCRUB_INFLATE)) != NULL && filter_scrub_count(f, SCRUB_INFLATE)))
		return &f->f;
	filter_free(&f->f);
	return NULL;
}

/* -- the messages of a WebSocket (RFC 6455; the layout of a frame stands at filter: ws). A text message is
 * searched over the borders of its frames; all else passes. What lies between two parts of a text goes on
 * in its place. */
#define SCRUB_GAPS 128

struct filter_scrub_ws {
	struct filter_scrub b;  /* its `text`: of the message that arrives, without heads */
	struct { size_t at, n; } gap[SCRUB_GAPS]; /* n bytes of `between`, before text[at] */
	size_t ngaps;
	struct buf between;     /* owned; heads, and frames that are not searched */
	struct buf out;         /* owned; what goes on */
	size_t given;           /* bytes of `out` that went on */
	unsigned char head[14]; /* of the frame that arrives */
	size_t head_n;
	uint64_t left;          /* bytes of its payload still to come */
	bool payload;           /* its head is whole */
	bool searched;          /* its payload is part of the text */
	bool last;              /* it ends the message */
	bool text;              /* a text message has begun */
};

/* Lets the text before `upto` go on, and what lies between. */
static void
filter_scrub_ws_release(struct filter_scrub_ws *w, size_t upto)
{
	struct filter_scrub *s = &w->b;
	size_t g = 0, used = 0, drop;

	for (bool more = true; more; g += more) {
		size_t to;

		more = g < w->ngaps && w->gap[g].at <= upto;
		to = more ? w->gap[g].at : upto;
		if (to != s->gone)
			buf_add(&w->out, s->text.p + s->gone, to - s->gone);
		s->gone = to;
		if (more)
			buf_add(&w->out, w->between.p + used, w->gap[g].n);
		used += more ? w->gap[g].n : 0;
	}
	buf_drop(&w->between, used);
	drop = s->begun < s->gone ? s->begun : s->gone;
	buf_drop(&s->text, drop);
	s->gone -= drop;
	s->begun -= drop;
	w->ngaps -= g;
	for (size_t i = 0; i < w->ngaps; i++) {
		w->gap[i] = w->gap[i + g];
		w->gap[i].at -= drop;
	}
}

/* Searches the text. `end`: the message is whole; each counts for the limit. False: it ends here. */
static bool
filter_scrub_ws_search(struct filter_scrub_ws *w, bool end)
{
	struct filter_scrub *s = &w->b;

	s->f.hurry = s->f.hurry || w->between.n > SCRUB_HOLD_MAX;
	if (!filter_scrub_search(s, end, s->gone))
		return false;
	end = end || s->f.hurry || s->text.n - s->begun < SCRUB_HOLD_MIN;
	filter_scrub_ws_release(w, end ? s->text.n : s->begun > s->gone ? s->begun : s->gone);
	return true;
}

/* Adds bytes that are not searched. False: no room, or it ends here. */
static bool
filter_scrub_ws_between(struct filter_scrub_ws *w, const void *p, size_t n)
{
	if (w->ngaps != 0 && w->gap[w->ngaps - 1].at == w->b.text.n) {
		w->gap[w->ngaps - 1].n += n;
		return buf_add(&w->between, p, n);
	}
	for (unsigned i = 0; i < 2 && w->ngaps == SCRUB_GAPS; i++) {
		w->b.f.hurry = i != 0;  /* no text goes on unsearched, be it in frames of a byte */
		if (!filter_scrub_ws_search(w, false))
			return false;
	}
	w->gap[w->ngaps].at = w->b.text.n;
	w->gap[w->ngaps++].n = n;
	return buf_add(&w->between, p, n);
}

/* A frame's head is whole. With an RSV bit it belongs to an extension, and a server masks nothing: neither is
 * searched. */
static bool
filter_scrub_ws_begin(struct filter_scrub_ws *w)
{
	unsigned op = w->head[0] & 15;
	bool ok = filter_scrub_ws_between(w, w->head, w->head_n);

	w->last = (w->head[0] & 128) != 0;
	if (op < 8 && op != 0)
		w->text = op == 1;
	w->searched = op < 2 && w->text && (w->head[0] & 0x70) == 0 && (w->head[1] & 128) == 0;
	w->head_n = 0;
	w->payload = true;
	return ok;
}

static ssize_t
filter_scrub_ws_run(struct filter *f, struct slice in, bool end, struct slice *out)
{
	struct filter_scrub_ws *w = (struct filter_scrub_ws *)f;
	size_t n, used = 0;
	bool ok = true;

	if (w->given == w->out.n) {
		buf_recycle(&w->out, FLOW_BUF_KEEP);
		w->given = 0;
		f->cost += in.n * (FLOW_PIECE_COST / 16);       /* as if a frame had sixteen bytes */
		while (ok && used < in.n) {
			if (w->payload) {
				n = in.n - used < w->left ? in.n - used : (size_t)w->left;
				ok = w->searched ? buf_add(&w->b.text, in.p + used, n) : filter_scrub_ws_between(w, in.p + used, n);
				w->left -= n;
				used += n;
			} else {
				w->head[w->head_n++] = (unsigned char)in.p[used++];
				if (filter_ws_head(w->head, w->head_n, &w->left) == w->head_n && w->head_n > 1)
					ok = filter_scrub_ws_begin(w);
			}
			if (ok && w->payload && w->left == 0) {
				w->payload = false;
				if (w->searched && w->last) {
					ok = filter_scrub_ws_search(w, true);
					buf_clear(&w->b.text);
					w->b.gone = w->b.begun = 0;
					w->text = false;
					w->b.tally->counted = false;    /* each message may be a guess */
				}
			}
		}
		ok = ok && filter_scrub_ws_search(w, end) && filter_scrub_count(&w->b, w->b.text.cap + w->between.cap + w->out.cap);
		f->hurry = false;
		filter_scrub_hold(f, w->b.text.n != w->b.gone || w->ngaps != 0);
	}
	filter_give(f, &w->out, &w->given, end, out);
	return ok && buf_ok(&w->out) ? (ssize_t)used : -1;
}

static void
filter_scrub_ws_wipe(struct filter *f)
{
	struct filter_scrub_ws *w = (struct filter_scrub_ws *)f;

	filter_scrub_wipe(f);
	buf_free(&w->between);
	buf_free(&w->out);
}

/* A filter for what a server sends in a WebSocket. NULL: no memory. */
static struct filter *
filter_scrub_ws_new(struct scrub *s, const struct scrub_table *t, struct scrub_tally *tally, size_t *share)
{
	static const struct filter_class class = {sizeof(struct filter_scrub_ws), true, true, filter_scrub_ws_run, filter_scrub_ws_wipe};
	struct filter_scrub_ws *w = (struct filter_scrub_ws *)filter_scrub_make(&class, s, t, tally, share);

	if (w == NULL)
		return NULL;
	buf_init(&w->between, SCRUB_HOLD_MAX + 2 * PEER_PIECE);
	buf_init(&w->out, 2 * SCRUB_HOLD_MAX + 4 * PEER_PIECE);
	return &w->b.f;
}

/* -- which answers, and how */
#define SCRUB_HELD_MAX (16 * 1024) /* a body of known length that is held, so that it may change its length */
#define SCRUB_ANY_MAX (1024 * 1024) /* of a body that is no text */

/* Does the field tell a digest or a signature of the body, or name a trailer that does? */
static bool
scrub_seals(struct slice name, struct slice value)
{
	struct slice suffix = {name.p + (name.n >= 4 ? name.n - 4 : 0), name.n >= 4 ? 4 : 0};

	if (slice_begins_nocase(name, SLICE("x-amz-checksum-")) ||
	    (slice_begins_nocase(name, SLICE("x-ms-")) && slice_eq_nocase(suffix, SLICE("-md5"))) || scrub_word(name, "content-md5 digest "
	    "content-digest repr-digest x-goog-hash docker-content-digest signature signature-input") != 0)
		return true;
	while (slice_eq_nocase(name, SLICE("trailer")) && value.n != 0) {
		struct slice one = http_trim(slice_cut(&value, ','));

		if (!slice_eq_nocase(one, SLICE("trailer")) && scrub_seals(one, SLICE("")))
			return true;
	}
	return false;
}

/* Is it text (RFC 6838)? */
static bool
scrub_is_text(struct slice type)
{
	struct slice sub = http_trim(slice_until(type, ';')), suffix;
	bool text = slice_begins_nocase(sub, SLICE("text/")) || slice_begins_nocase(sub, SLICE("multipart/"));

	slice_cut(&sub, '/');
	for (suffix = sub; slice_until(suffix, '+').n != suffix.n;)
		slice_cut(&suffix, '+');        /* "application/vnd.api+json" */
	return text || scrub_word(suffix, "json xml") != 0 || scrub_word(sub, "javascript x-javascript "
	    "ecmascript x-www-form-urlencoded x-ndjson ndjson jsonl x-jsonlines json-seq yaml x-yaml toml graphql") != 0;
}

/* Attaches to the answer's flow what it needs; see enum scrub_way. `s` NULL: there is nothing to look for.
 * `share`: of the agent's bodies. */
static enum scrub_way
scrub_begin(struct scrub *s, const struct http_head *h, int mode, struct scrub_tally *tally, size_t *share, struct flow *f)
{
	struct slice coding = {NULL, 0};
	bool strict = h->status == 206, text;
	const struct scrub_table *t;

	if (s == NULL || (h->body == BODY_NONE && h->status != 101) || mode == SCRUB_HEAD || mode == SCRUB_OFF)
		return SCRUB_PASSES;
	text = scrub_is_text(http_value(h, SLICE("content-type")));
	if (mode == SCRUB_TEXT && !text && h->body == BODY_LENGTH && h->length > SCRUB_ANY_MAX)
		return SCRUB_PASSES;
	if (!scrub_table(s, true, &t))
		return SCRUB_FAILS;
	if (t == NULL)
		return SCRUB_PASSES;
	for (const struct http_field *e = h->field; e < h->field + h->nfields; e++) {
		struct slice rest = slice_eq_nocase(e->name, SLICE("content-encoding")) ? e->value : SLICE("");

		strict = strict || scrub_seals(e->name, e->value);
		while (rest.n != 0) {
			struct slice one = http_trim(slice_cut(&rest, ','));
			unsigned which = scrub_word(one, "identity aws-chunked deflate gzip x-gzip");

			if (one.n == 0 || which == 1 || which == 2)
				continue;       /* aws-chunked is left over from an upload */
			if ((tally->unread = coding.p != NULL))
				return SCRUB_FAILS;     /* two of them, of which the client asked for one */
			/* one that the client did not ask for, and that cannot be read here: a stored one; then it is searched as it comes */
			coding = which == 0 ? SLICE("") : which == 3 ? SLICE("deflate") : SLICE("gzip");
			strict = true;
		}
	}
	if (!strict && coding.n == 0 && h->body == BODY_LENGTH && h->length <= SCRUB_HELD_MAX)
		return SCRUB_HELD;
	return flow_attach(f, h->status == 101 ? filter_scrub_ws_new(s, t, tally, share) :
	    filter_scrub_new(s, t, mode == SCRUB_TEXT && !text ? SCRUB_ANY_MAX : UINT64_MAX, strict, coding, tally, share)) ?
	    SCRUB_STREAMS : SCRUB_FAILS;
}

/* ---- handover --------------------------------------------------------------
 * Listeners that a process hands over on the control socket for an agent (`sallyport run`: those of a network
 * namespace). Lua judges them (lua/web/control.lua) and answers their questions of names (lua/handover.lua). The
 * sender shares their flags: none is set, and none is relied on, so accept(2) may block, in a thread that does
 * nothing else. Invariants: only the loop closes a listener, once the thread has ended; what the thread reads,
 * nobody changes while it runs. Skip it unless you review `sallyport run`. */
#define HANDOVER_MAX 32         /* descriptors of one; lua/web/control.lua has the same */
#define HANDOVER_PAUSE_MS 100   /* when descriptors have run out; between two looks whether the thread has ended */
#define HANDOVER_TURN 64        /* datagrams a turn */
#define HANDOVER_DNS_MAX 4096   /* bytes of a question or an answer; more than any has */

struct handover {
	struct timer timer;     /* of its end */
	struct listener at[HANDOVER_MAX]; /* at[i].watch.fd is owned */
	struct pollfd poll[HANDOVER_MAX]; /* the thread's, as are `live`, and between two turns of the loop `fd` and `from` */
	size_t n, live;
	struct defer news;      /* of the thread: `fd` was accepted at at[from]; -1: it ends */
	int fd;
	size_t from;
	sem_t room;             /* the loop has taken `fd` */
	bool threaded;
	_Atomic bool ended;
	unsigned refs;          /* the control connection, and each connection that came in */
	lua_Integer id;         /* lua/handover.lua knows it by that; 0: not begun; -1: more came than are taken */
};

static size_t handover_fds;     /* those that are open, in all */

static void
handover_unref(struct handover *h)
{
	if (--h->refs != 0)
		return;
	for (size_t i = 0; i < h->n; i++)
		watch_close(&h->at[i].watch);
	handover_fds -= h->n;
	lua_ask(ENTRY_HANDOVER, "ended", h->id, SLICE(""), NULL);
	free(h);
}

/* A control connection may hand over from here on, but a stranger's: that is told why, and its descriptors are dropped. */
static void
handover_came(struct conn *c)
{
	struct handover *h = c->at->over;

	if (c->at->control) {
		door_name(c, c->token);
		c->known = c->uid == 0 || c->uid == geteuid() || lua_ask(ENTRY_KNOWS, c->token, 0, SLICE(""), NULL);
		h = c->peer.over = c->known ? calloc(1, sizeof *h) : NULL;
	}
	if (h != NULL)
		h->refs++;
}

static ssize_t
handover_read(struct handover *h, int fd, char *out, size_t n)
{
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int) * (HANDOVER_MAX + 1))]; } u;
	struct iovec v = {out, n};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof u};
	ssize_t got = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
	const int *given = (const int *)CMSG_DATA(&u.head);

	if (got < 0 || m.msg_controllen < CMSG_LEN(0))
		return got;
	for (size_t left = (u.head.cmsg_len - CMSG_LEN(0)) / sizeof *given; left != 0; left--, given++)
		if (h->n == HANDOVER_MAX || h->id != 0 || handover_fds >= conn_max) {
			h->id = h->id != 0 ? h->id : -1;
			close(*given);
		} else {
			h->at[h->n++].watch.fd = *given;
			handover_fds++;
		}
	return got;
}

static void
handover_datagrams(struct watch *w)
{
	static char question[HANDOVER_DNS_MAX];
	static struct buf answer = {.max = HANDOVER_DNS_MAX};
	struct sockaddr_storage ss;
	socklen_t len = sizeof ss;
	ssize_t n;

	for (int i = 0; i < HANDOVER_TURN && (n = recvfrom(w->fd, question, sizeof question, MSG_DONTWAIT, (struct sockaddr *)&ss, &len)) >= 0; i++) {
		if (lua_ask(ENTRY_HANDOVER, "udp", OWNER(w, struct listener, watch)->over->id, (struct slice){question, (size_t)n}, &answer))
			sendto(w->fd, answer.p, answer.n, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&ss, len);
		len = sizeof ss;
	}
}

/* -- the thread, and its news */
static void
handover_news(struct defer *d)
{
	struct handover *h = OWNER(d, struct handover, news);

	h->threaded = h->fd >= 0;
	if (!h->threaded)
		return;
	if (h->ended)
		close(h->fd);
	else
		conn_take(h->fd, &h->at[h->from]);
	sem_post(&h->room);
}

static void *
handover_accept(void *arg)
{
	struct handover *h = arg;

	while (h->live != 0 && !h->ended)
		for (h->from = poll(h->poll, h->n, -1) < 0 ? h->n : 0; h->from < h->n; h->from++) {
			struct pollfd *p = &h->poll[h->from];

			if (p->revents == 0)
				continue;
			if ((h->fd = accept4(p->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
				job_tell(&h->news, handover_news);
				while (sem_wait(&h->room) != 0)         /* a signal */
					continue;
			} else if (errno == EINVAL || (p->revents & ~POLLIN) != 0) {
				p->fd = -1;     /* it listens no more */
				h->live--;
			} else {
				poll(NULL, 0, HANDOVER_PAUSE_MS);
			}
		}
	h->fd = -1;
	job_tell(&h->news, handover_news);
	return NULL;
}

/* The control connection has gone: nothing more comes in, and what did is cut. A worker that drains lets that be;
 * its thread accepts nothing more, and the next server may want the listeners. */
static void
handover_over(struct timer *t)
{
	struct handover *h = OWNER(t, struct handover, timer);

	for (size_t i = 0; i < h->n && h->threaded && !conn_draining; i++)
		shutdown(h->at[i].watch.fd, SHUT_RDWR); /* wakes the thread, from accept(2) too */
	for (struct conn *c = LIST_FIRST(&conn_list), *next; c != NULL && !conn_draining; c = next) {
		next = LIST_NEXT(c, link);
		if (c->at->over != h)
			continue;
		if (c->state == CONN_HEAD)
			conn_drop_req(c);
		conn_close(c, true);
	}
	if (h->threaded)
		timer_set(t, clock_now() + HANDOVER_PAUSE_MS, handover_over);
	else
		handover_unref(h);
}

static void
handover_left(struct conn *c)
{
	if (c->peer.over != NULL) {
		c->peer.over->ended = true;
		timer_set(&c->peer.over->timer, clock_now(), handover_over);
	} else if (c->at->over != NULL) {
		handover_unref(c->at->over);
	}
}

/* ---- door ------------------------------------------------------------------
 * The ways to the proxy beside a token on its port: whose connection it is by the listener, the user
 * or the address. Invariant: nothing here trusts a byte that a client sent. Skip it if all agents show
 * a token. */

/* "=AGENT" of a bound listener, beside which no token counts; "uid:N"; "from:ADDRESS%INTERFACE". Of a captured
 * connection "~AGENT" and "via:…". lua/doors.lua reads them. No hash of a token looks so. */
static void
door_name(const struct conn *c, char out[REQ_WHO_MAX])
{
	union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(struct in_pktinfo))]; } u;
	char text[ADDR_TEXT_MAX], interface[IF_NAMESIZE];
	const int one = 1, fd = c->peer.watch.fd;
	int index = 0;
	socklen_t len = sizeof u, n = sizeof index;

	if (c->at->agent[0] != '\0') {
		snprintf(out, REQ_WHO_MAX, "%c%s", c->at->captures ? '~' : '=', c->at->agent);
	} else if (c->at->at.port == 0) {
		snprintf(out, REQ_WHO_MAX, "uid:%u", c->uid);
	} else if (c->client.port != 0) {
		setsockopt(fd, SOL_IP, IP_PKTINFO, &one, sizeof one);
		if (getsockopt(fd, SOL_IP, IP_PKTOPTIONS, &u, &len) == 0 && len >= CMSG_LEN(sizeof(struct in_pktinfo)))
			memcpy(&index, CMSG_DATA(&u.head), sizeof index);       /* ipi_ifindex; 0 where it came by IPv6 */
		if (index == 0)
			getsockopt(fd, SOL_IPV6, IPV6_MULTICAST_IF, &index, &n);
		if (if_indextoname((unsigned)index, interface) == NULL)
			interface[0] = '\0';    /* where the kernel does not tell */
		snprintf(out, REQ_WHO_MAX, "%s:%.*s%%%s", c->at->captures ? "via" : "from",
		    (int)addr_format(&c->client.addr, text), text, interface);
	}
}

/* -- TLS to the proxy itself */
static struct tls *
door_tls(const struct conn *c)
{
	struct addr own = net_end(c->peer.watch.fd, true).addr;
	char text[ADDR_TEXT_MAX];
	struct slice name = {text, addr_format(&own, text)};

	if (c->at->kind != LISTEN_PROXY && tls_own[c->at->kind] == NULL)
		return NULL;
	return tls_accept(c->at->host[0] != '\0' ? slice_of(c->at->host) : name, tls_own[c->at->kind]);
}

/* What `p` was is the wire from here on, and p->tls may be another's. False: no memory. */
static bool
under_begin(struct peer *p)
{
	struct peer *u = malloc(sizeof *u);

	if (u == NULL)
		return false;
	*u = *p;
	*p = (struct peer){.watch = u->watch, .under = u, .received = u->received};
	return p->watch.readable = true;        /* it may hold bytes */
}

static ssize_t
under_read(struct peer *p, char *out, size_t n)
{
	struct peer *u = p->under;
	struct slice in;
	enum io io;

	u->watch = p->watch;
	if ((io = peer_fill(u)) != IO_OK) {
		errno = io == IO_AGAIN ? EAGAIN : EPROTO;
		return io == IO_EOF ? 0 : -1;
	}
	in = peer_data(u);
	n = in.n < n ? in.n : n;
	memcpy(out, in.p, n);
	peer_consume(u, n);
	return (ssize_t)n;
}

static ssize_t
under_send(struct peer *p, const char *data, size_t n)
{
	struct peer *u = p->under;

	u->watch = p->watch;
	n = n < PEER_PIECE ? n : PEER_PIECE;
	if (!peer_room(u, PEER_OUT_HIGH) || !peer_put(u, data, n)) {
		errno = u->failed ? EPIPE : EAGAIN;
		return -1;
	}
	return (ssize_t)n;
}

static int
under_flush(struct peer *p)
{
	enum io io;

	p->under->watch = p->watch;
	io = peer_flush(p->under);
	p->watch.writable = p->under->watch.writable;
	p->failed = p->send_failed = io == IO_ERR;
	return io;
}

/* -- SOCKS5 (RFC 1928), with user and password (RFC 1929): three messages, of which the last becomes a
 * CONNECT. What comes behind it stays on the wire. */

/* How long the awaited message is, as far as its beginning tells; more than n: go on reading. */
static size_t
socks_size(int message, const uint8_t *p, size_t n)
{
	if (message == SOCKS_DNS)       /* RFC 1035 4.2.2 */
		return n < 2 ? 2 : 2u + (size_t)load_be(p, 2);
	if (message == SOCKS_REQUEST)
		return n < 5 ? 5 : p[3] == 1 ? 10 : p[3] == 4 ? 22 : p[3] == 3 ? 7u + p[4] : 5;
	if (n < 2 || message == SOCKS_HELLO)
		return n < 2 ? 2 : 2u + p[1];
	return n < 3u + p[1] ? 3u + p[1] : 3u + p[1] + p[2 + p[1]];
}

/* Takes a message of the client's as far as it has come, and answers. *whole: it was the last, and
 * r->bytes is the head of a CONNECT. False: no memory. A client that offers a password is asked for it,
 * since a token counts before the door's agent; not at a bound listener, where none does. */
static bool
socks_take_head(struct conn *c, bool *whole)
{
	struct buf *b = &c->req->bytes;
	const char *why = NULL;
	uint8_t reply[10] = {5, 0, 0, 1}, *p;
	bool asks, bound = c->at->agent[0] != '\0';
	size_t need;

	*whole = false;
	while ((need = socks_size(c->socks, (uint8_t *)b->p, b->n)) > b->n) {
		struct slice in = peer_data(&c->peer);

		in.n = in.n < need - b->n ? in.n : need - b->n;
		if (in.n == 0 || !buf_add(b, in.p, in.n))
			return in.n == 0;
		peer_consume(&c->peer, in.n);
	}
	p = (uint8_t *)b->p;
	if (c->socks == SOCKS_DNS) {
		if (lua_ask(ENTRY_HANDOVER, "tcp", c->at->over->id, (struct slice){b->p + 2, b->n - 2}, b) && peer_put(&c->peer, b->p, b->n))
			return buf_clear(b), true;
		conn_drop_req(c);       /* else it would be a record */
		return false;
	}
	if (c->socks == SOCKS_HELLO) {
		door_name(c, c->token);
		asks = memchr(p + 2, 2, p[1]) != NULL;
		if (!asks || bound)
			c->known = lua_ask(ENTRY_KNOWS, c->token, 0, SLICE(""), NULL);
		reply[1] = asks && !bound ? 2 : c->known && memchr(p + 2, 0, p[1]) != NULL ? 0 : asks ? 2 : 0xff;
		why = reply[1] == 0xff ? "SOCKS5 without user and password" : NULL;
	} else if (c->socks == SOCKS_PASSWORD) {
		if (!bound)
			token_hash((struct slice){b->p + 2, p[1]}, (struct slice){b->p + 3 + p[1], p[2 + p[1]]}, c->token);
		c->known = lua_ask(ENTRY_KNOWS, c->token, 0, SLICE(""), NULL);
		reply[0] = 1;
		reply[1] = !c->known || p[0] != 1;
		why = reply[1] != 0 ? "SOCKS5: the password is no agent's token" : NULL;
	} else if (lua_ask(ENTRY_SOCKS, "", 0, buf_slice(b), b) && b->n > 1) {
		return *whole = true;
	} else {
		reply[1] = b->n == 1 ? (uint8_t)b->p[0] : 1;    /* lua/socks.lua's code; or it failed */
		why = "SOCKS5: no request that is served";
	}
	peer_put(&c->peer, reply, c->socks == SOCKS_REQUEST ? sizeof reply : 2);
	if (why != NULL) {
		reqlog_note(c, c->socks == SOCKS_REQUEST ? "not_http" : "agent_unknown", why);
		conn_drop_req(c);
		conn_linger(c);
		return true;
	}
	c->socks = c->socks == SOCKS_HELLO && reply[1] == 2 ? SOCKS_PASSWORD : SOCKS_REQUEST;
	buf_clear(b);
	return true;
}

/* -- captured connections: SO_ORIGINAL_DST of REDIRECT, and of TPROXY the socket's own address */
static void
door_capture(struct conn *c)
{
	struct sockaddr_storage ss = {.ss_family = AF_UNSPEC};
	socklen_t len = sizeof ss, name_len = sizeof ss;
	struct endpoint e = {.port = 0};
	int fd = c->peer.watch.fd;

	if (c->at->over != NULL || (getsockopt(fd, SOL_IP, 80, &ss, &len) != 0 && (len = sizeof ss, getsockopt(fd, SOL_IPV6, 80, &ss, &len) != 0)))
		getsockname(fd, (struct sockaddr *)&ss, &name_len);
	net_endpoint((struct sockaddr *)&ss, &e);
	c->dialled = addr_unmapped(&e.addr);
	c->port = e.port;
	c->state = CONN_SNIFF;
	c->host[addr_format(&c->dialled, c->host)] = '\0';
	door_name(c, c->token);
}

static bool
door_step_name(struct conn *c)
{
	static char peeked[HTTP_HEAD_MAX];      /* dead when this returns */
	struct buf host = {.p = c->host, .cap = sizeof c->host - 1, .max = sizeof c->host - 1};
	ssize_t n = c->at->over != NULL ? lua_ask(ENTRY_HANDOVER, "host", c->at->over->id, slice_of(c->host), &host) :
	    recv(c->peer.watch.fd, peeked, sizeof peeked, MSG_PEEK | MSG_DONTWAIT);
	struct req *r = n > 0 ? req_new(c) : NULL;
	struct slice in = {peeked, n > 0 ? (size_t)n : 0};

	if (r == NULL)
		return (n >= 0 || errno != EAGAIN) && conn_close(c, true);
	c->req = r;
	c->host[host.n] = c->at->over != NULL ? '\0' : c->host[0];
	if (c->at->over == NULL && peeked[0] == 0x16)
		r->hello = buf_addv(&r->up_bytes, in) ? req_judge_hello(r) : HELLO_REFUSE;
	if (c->at->over == NULL && (r->hello == HELLO_MORE || r->hello == HELLO_REFUSE || (r->hello == HELLO_ANY && sniff_is_http(in)))) {
		c->tunnel = r->hello == HELLO_ANY;      /* plain HTTP: each request names its host */
		c->state = c->tunnel ? CONN_HEAD : c->state;
		n = r->hello;
		conn_drop_req(c);
		if (n == HELLO_REFUSE)
			reqlog_note(c, "client_tls", "no hello that we can read");
		return n == HELLO_REFUSE ? conn_close(c, true) : n != HELLO_MORE;
	}
	buf_clear(&r->up_bytes);
	r->hello = HELLO_ANY;
	buf_addf(&r->bytes, "CONNECT %s:%d HTTP/1.0\r\n\r\n", host_text(r->host[0] != '\0' ? r->host : c->host), c->port);
	conn_begin_decide(c);
	return true;
}

/* What stands for an answer of ours: to a captured client an alert, access_denied (RFC 5246 7.2.2); else
 * a reply of RFC 1928 6: not allowed (2), host unreachable (4), connection refused (5), TTL expired (6),
 * or general failure (1). */
static void
door_answer(struct conn *c, struct buf *b)
{
	struct req *r = c->req;
	uint8_t reply[10] = {5, 1, 0, 1};

	if (strcmp(r->code, "upstream_unreachable") == 0)
		reply[1] = memmem(r->answer.p, r->answer.n, "connection refused", 18) != NULL ? 5 : 4;
	else
		reply[1] = r->status == 403 || r->status == 407 ? 2 : r->status == 504 ? 6 : 1;
	c->last = true;
	buf_clear(&r->answer);
	if (c->at->captures)
		buf_add(b, "\25\3\1\0\2\2\61", 7);
	else
		buf_add(b, reply, sizeof reply);
}

/* ---- h2 --------------------------------------------------------------------
 * HTTP/2 (RFC 9113) over nghttp2, which sees bytes and no sockets: framing, HPACK and flow control are its
 * business. A session belongs to the peer that carries it: an agent's conn, or an upstream. Each stream is the wire
 * of another peer, on which the messages are of HTTP/1.1: so an agent's stream is a conn like any other, read, judged,
 * counted and logged by the same code, and a request sees its upstream, which is a stream, as any other. Invariants:
 * what came is written as one canonical message, whose body is delimited by us
 * alone; a window opens when a flow has taken the bytes; nghttp2 keeps nothing beyond the bounds below, and
 * wipes what it frees; no conn runs inside a callback: a stream that may go on is told in a deferred call. */
#define H2_STREAMS 100          /* of a session at once; a stream that nghttp2 forgot counts while its conn lives */
#define H2_WINDOW 65535         /* bytes of a body that wait in a stream: RFC 9113 6.9.2 begins with that many */
#define H2_CALM 2000            /* what a peer may cost beyond its due: a point comes back each ms, */
#define H2_CALM_DATA 2          /* and so many with each frame of data that we send: it moves two windows; or request: head and trailers */
#define H2_CALM_RESET 10        /* a stream that ends in an error, or settings */
#define H2_CALM_BYTES 512       /* of a value that is in vain cost a point */
#define H2_DATA_SMALL 5         /* bytes: gRPC's smallest message; a frame of fewer costs a point */
#define H2_QUEUE 1000           /* frames that wait for a peer which does not read */
#define H2_TURN (128 * 1024)    /* bytes of frames that are read in a turn: a byte may be a whole field */
#define H2_WINDOW_UP (128 * 1024) /* of an answer's body: a server that is 50 ms away sends 2.5 MB/s */
#define H2_PING_MS 310000       /* silence with streams open; gRPC's servers bear one PING in 5 minutes */
#define H2_PONG_MS 15000        /* what comes no more after one: the server is gone */

#ifndef SALLYPORT_LEAN
enum { H2_METHOD, H2_SCHEME, H2_AUTHORITY, H2_PATH, H2_STATUS, H2_PROTOCOL, H2_PSEUDO };

struct h2_wake {                /* a deferred call that tells the peer's owner of it */
	struct defer defer;
	struct peer *peer;      /* borrowed */
};

struct stream {
	struct h2 *h2;          /* borrowed; NULL: the session has ended */
	struct h2_wake wake;    /* of the peer whose wire it is; NULL: its head is not whole */
	LIST_ENTRY(stream) link;
	int32_t id;             /* 0: nghttp2 has closed it; a request of ours: or does not know it yet */
	bool is_client;         /* it carries a request of ours: what comes is the answer */
	bool headed;            /* the head that came is whole; of an answer, the final one */
	bool gone;              /* it was reset, or its session has ended */
	/* what comes */
	nghttp2_rcbuf *pseudo[H2_PSEUDO]; /* owned references */
	struct buf in;          /* owned; a head, then bytes of the body */
	struct buf cookies, trailers; /* owned */
	size_t head;            /* bytes of `in` that are the head's */
	bool begun;             /* `in` has the first line */
	bool large;             /* the head is over HTTP_HEAD_MAX */
	bool sized;             /* the body's length was said */
	bool chunked;           /* else it is told in chunks */
	bool socket;            /* a WebSocket is asked for (RFC 8441): its bytes go as they are */
	bool taken;             /* its conn has read of it */
	bool ended;
	uint64_t left;          /* of the body, where its length was said */
	/* what goes */
	bool is_head;           /* a HEAD request: no body goes with its answer */
	bool answered;          /* the final head, or the request's, was given to nghttp2 */
	bool done;              /* and all of the body */
	int mode;               /* enum http_body: how the answer is framed in peer->out */
	uint64_t out_left;
	struct http_chunked out_chunked;
};

struct h2 {
	nghttp2_session *s;     /* owned */
	struct h2_wake wake;    /* of the peer that carries the session */
	bool is_client;         /* the peer is an upstream's */
	int64_t heard;          /* monotonic ms: when something came */
	LIST_HEAD(, stream) streams;
	unsigned n;             /* of them, those whose head is whole: the others have the session's deadline */
	bool over;              /* the client is a stranger, who was told so */
	bool leaving;           /* GOAWAY was sent: the streams that there are go on */
	int64_t calm, calm_at;
	size_t skip;            /* bytes before the next frame's head */
	uint8_t head[9];        /* of the frame that arrives (RFC 9113 4.1), of which head_n bytes are there */
	size_t head_n;
};

static uint32_t h2_alone[256];  /* by their hash: keys whose requests do not wait, as h2_settled was told last. One that is pushed
	 * out costs a wait in vain, one of another's hash a connection more. */

/* -- nghttp2's memory holds fields and bodies: it is wiped */
static void *
h2_malloc(size_t n, void *user)
{
	return malloc(n);
}

static void *
h2_calloc(size_t n, size_t size, void *user)
{
	return calloc(n, size);
}

static void
h2_free(void *p, void *user)
{
	if (p != NULL)
		wipe(p, malloc_usable_size(p));
	free(p);
}

static void *
h2_realloc(void *old, size_t n, void *user)
{
	size_t had = old != NULL ? malloc_usable_size(old) : 0;
	void *p = malloc(n);

	if (p != NULL && old != NULL) {
		memcpy(p, old, had < n ? had : n);
		h2_free(old, user);
	}
	return p;
}

/* -- waking */
static void
h2_turn(struct defer *d)
{
	struct peer *p = OWNER(d, struct h2_wake, defer)->peer;

	p->watch.ready(&p->watch);
}

/* The stream's conn may go on: bytes came, there is room, or it is over. */
static void
stream_wake(struct stream *st)
{
	if (st->wake.peer == NULL)
		return;
	st->wake.peer->watch.readable = st->wake.peer->watch.writable = true;
	loop_defer(&st->wake.defer, h2_turn);
}

static void
stream_free(struct stream *st)
{
	loop_undefer(&st->wake.defer);
	for (size_t i = 0; i < H2_PSEUDO; i++)
		nghttp2_rcbuf_decref(st->pseudo[i]);    /* or NULL */
	buf_free(&st->in);
	buf_free(&st->cookies);
	buf_free(&st->trailers);
	if (st->h2 != NULL) {
		LIST_REMOVE(st, link);
		st->h2->n -= st->wake.peer != NULL;
	}
	free(st);
}

/* The stream was reset with `code`, or its session has ended: to its owner the wire has failed. */
static void
stream_gone(struct stream *st, uint32_t code)
{
	if (st->wake.peer == NULL) {
		stream_free(st);
		return;
	}
	if (st->is_client && !st->ended && !st->gone) {
		struct upstream *u = OWNER(st->wake.peer, struct upstream, peer);

		bool begun = st->pseudo[H2_STATUS] != NULL;     /* an answer: nothing is sent again */

		u->refused = !begun && (code == NGHTTP2_REFUSED_STREAM ||
		    (code == NGHTTP2_HTTP_1_1_REQUIRED && upstream_wants_http1(u->key, true)));
		u->why = code != NGHTTP2_NO_ERROR ? nghttp2_http2_strerror(code) : u->why;
		u->requests *= code == NGHTTP2_NO_ERROR && !begun;      /* else it is no pooled connection's end */
	}
	if (st->is_client && st->ended)         /* RFC 9113 8.1: the answer is whole, the rest of the request is not wanted */
		st->done = true;
	else
		st->gone = st->wake.peer->failed = st->wake.peer->watch.hup = true;
	stream_wake(st);
}

/* Takes `cost` off what the peer may still cost. An error for nghttp2: it is too much, the session ends. */
static int
h2_charge(struct h2 *h, int cost)
{
	int64_t now = clock_now();

	h->calm += now - h->calm_at;
	h->calm = (h->calm < H2_CALM ? h->calm : H2_CALM) - cost;
	h->calm_at = now;
	return h->calm < 0 ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* -- what comes: a head, as one of HTTP/1.1 */
static struct slice
h2_slice(nghttp2_rcbuf *b)
{
	nghttp2_vec v = b != NULL ? nghttp2_rcbuf_get_buf(b) : (nghttp2_vec){NULL, 0};

	return (struct slice){(const char *)v.base, v.len};
}

/* The first line, and Host. In a tunnel the target has origin-form; one whose scheme is not the tunnel's
 * keeps it, and is refused for that. */
static void
stream_begin(struct stream *st)
{
	const struct conn *c = OWNER(st->h2->wake.peer, struct conn, peer);
	struct slice asked = h2_slice(st->pseudo[H2_METHOD]), protocol = h2_slice(st->pseudo[H2_PROTOCOL]), scheme = h2_slice(st->pseudo[H2_SCHEME]),
	    authority = h2_slice(st->pseudo[H2_AUTHORITY]), path = h2_slice(st->pseudo[H2_PATH]);
	uint8_t nonce[16] = {0};
	char key[24];
	bool connect = path.n == 0, origin = !st->is_client && c->tunnel && slice_eq_nocase(scheme, c->secure ? SLICE("https") : SLICE("http"));
	struct slice method = (st->socket = slice_eq(asked, SLICE("CONNECT")) && slice_eq(protocol, SLICE("websocket"))) ? SLICE("GET") : asked;
	const struct slice line[] = {method, SLICE(" "), origin || connect ? SLICE("") : scheme,
	    origin || connect ? SLICE("") : SLICE("://"), origin ? SLICE("") : authority,
	    !origin && slice_eq(path, SLICE("*")) ? SLICE("") : path, SLICE(" HTTP/1.1\r\n"),
	    authority.n != 0 ? SLICE("Host: ") : SLICE(""), authority, authority.n != 0 ? SLICE("\r\n") : SLICE("")};
	const struct slice answer[] = {SLICE("HTTP/1.1 "), h2_slice(st->pseudo[H2_STATUS]), SLICE(" \r\n")};
	/* RFC 8441 5: what RFC 6455's handshake has beyond. An answer that is no 101 ends the stream. */
	const struct slice upgrade[] = {SLICE("Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Key: "), {key, sizeof key}, SLICE("\r\n")};

	st->begun = true;
	st->is_head = st->is_head || slice_eq(method, SLICE("HEAD"));
	st->large = !buf_join(&st->in, st->is_client ? answer : line, st->is_client ? COUNT(answer) : COUNT(line)) ||
	    st->in.n > HTTP_HEAD_MAX;
	if (st->socket) {
		rand_bytes(nonce, sizeof nonce);
		b64_encode(key, nonce, sizeof nonce, false);
		buf_join(&st->in, upgrade, COUNT(upgrade));
	}
	nghttp2_rcbuf_decref(st->pseudo[H2_PATH]);      /* it may be long, and stands in the head */
	st->pseudo[H2_PATH] = NULL;
}

static struct stream *
stream_new(struct h2 *h, size_t window)
{
	struct stream *st = calloc(1, sizeof *st);

	if (st == NULL)
		return NULL;
	*st = (struct stream){.h2 = h, .is_client = h->is_client, .in.max = HTTP_HEAD_MAX + window, .cookies.max = HTTP_HEAD_MAX,
	    .trailers.max = HTTP_TRAILERS_MAX};
	LIST_INSERT_HEAD(&h->streams, st, link);
	return st;
}

static int
h2_on_begin_headers(nghttp2_session *s, const nghttp2_frame *f, void *user)
{
	struct h2 *h = user;
	struct stream *st;

	if (f->hd.type != NGHTTP2_HEADERS || f->headers.cat != NGHTTP2_HCAT_REQUEST)
		return 0;
	if (h->n == H2_STREAMS || h->leaving || (st = stream_new(h, H2_WINDOW)) == NULL) {
		nghttp2_submit_rst_stream(s, NGHTTP2_FLAG_NONE, f->hd.stream_id, NGHTTP2_REFUSED_STREAM);
		return 0;
	}
	st->id = f->hd.stream_id;
	return nghttp2_session_set_stream_user_data(s, st->id, st);
}

/* A field, also one that nghttp2 would leave out. Nothing in it may end a line of ours (RFC 9113 8.2.1, 10.3). */
static int
h2_on_header(nghttp2_session *s, const nghttp2_frame *f, nghttp2_rcbuf *name_, nghttp2_rcbuf *value_,
    uint8_t flags, void *user)
{
	static const struct slice pseudo[] = {[H2_METHOD] = SLICE_INIT(":method"), [H2_SCHEME] = SLICE_INIT(":scheme"),
	    [H2_AUTHORITY] = SLICE_INIT(":authority"), [H2_PATH] = SLICE_INIT(":path"), [H2_STATUS] = SLICE_INIT(":status"),
	    [H2_PROTOCOL] = SLICE_INIT(":protocol")};
	struct stream *st = nghttp2_session_get_stream_user_data(s, f->hd.stream_id);
	struct slice name = h2_slice(name_), value = h2_slice(value_);

	if (st == NULL || st->large)            /* nghttp2 has looked at each byte: a byte of HPACK may name 4,000 */
		return h2_charge(user, (int)(value.n / H2_CALM_BYTES));
	if (!http_valid_field_value(value) || http_trim(value).n != value.n)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	for (size_t i = 0; i < H2_PSEUDO; i++)
		if (slice_eq(name, pseudo[i])) {
			nghttp2_rcbuf_decref(st->pseudo[i]);    /* NULL, or an interim answer's status */
			nghttp2_rcbuf_incref(st->pseudo[i] = value_);
			return 0;
		}
	if (!http_is_token(name))
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	if (st->headed)
		return put_field(&st->trailers, name, value) ? 0 : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	if (!st->begun)
		stream_begin(st);
	if (slice_eq(name, SLICE("cookie"))) {          /* RFC 9113 8.2.3: in HTTP/1.1 there is one field of them */
		if (st->cookies.n != 0)
			buf_add(&st->cookies, "; ", 2);
		st->large = !buf_addv(&st->cookies, value);
	} else if ((!st->socket || !slice_eq(name, SLICE("sec-websocket-key"))) &&
	    (!slice_eq(name, SLICE("host")) || !slice_eq_nocase(value, h2_slice(st->pseudo[H2_AUTHORITY])))) {
		if (slice_eq(name, SLICE("content-length")))    /* nghttp2 has let only one pass */
			st->sized = slice_number(value, INT64_MAX, &st->left);
		put_field(&st->in, name, value);        /* a Host that differs from :authority is a second one */
	}
	st->large = st->large || st->in.n + st->cookies.n > HTTP_HEAD_MAX || !buf_ok(&st->in);
	return 0;
}

/* Makes a conn for a stream whose head is whole: its client is that of the session. False: no room. */
static bool
stream_conn(struct stream *st)
{
	struct conn *p = OWNER(st->h2->wake.peer, struct conn, peer), *c = conn_count < conn_max ? calloc(1, sizeof *c) : NULL;

	if (c == NULL)
		return false;
	*c = (struct conn){.id = ++conn_ids, .at = p->at, .client = p->client, .uid = p->uid, .dialled = p->dialled,
	    .tunnel = p->tunnel, .secure = p->secure, .port = p->port, .agent = p->agent};
	peer_init(&c->peer, -1, conn_ready);
	c->peer.stream = st;
	memcpy(c->host, p->host, sizeof c->host);
	memcpy(c->token, p->token, sizeof c->token);
	if (c->agent != NULL)
		c->agent->conns++;
	handover_came(c);
	LIST_INSERT_HEAD(&conn_list, c, link);
	conn_count++;
	conn_deadline(c, CONN_HEAD_MS);
	st->wake.peer = &c->peer;
	st->h2->n++;
	p->deadline = clock_now() + CONN_HELD_MS;
	return true;
}

/* The head is whole. False: no memory. */
static bool
stream_end_head(struct stream *st)
{
	struct slice status = h2_slice(st->pseudo[H2_STATUS]);
	bool interim = status.n != 0 && status.p[0] == '1', bare = st->is_client &&
	    (st->is_head || interim || slice_eq(status, SLICE("204")) || slice_eq(status, SLICE("304")));
	struct buf *b = &st->in;

	if (!st->begun)
		stream_begin(st);
	if (st->cookies.n != 0)
		put_field(b, SLICE("cookie"), buf_slice(&st->cookies));
	buf_free(&st->cookies);
	st->chunked = !bare && !st->ended && !st->sized && !st->socket;
	buf_adds(b, st->large ? "x" : st->chunked ? "transfer-encoding: chunked\r\n\r\n" :
	    st->is_client && !bare && st->ended && !st->sized ? "content-length: 0\r\n\r\n" : "\r\n");
	if (st->large || !buf_ok(b)) {          /* a head without an end, which is answered as such */
		b->bad = false;
		if (!buf_reserve(b, b->max - b->n))
			return false;
		memset(b->p + b->n, 'x', b->max - b->n);
		b->n = b->max;
	}
	st->head = b->n;
	st->headed = st->begun = !interim;
	return buf_ok(b);
}

/* -- what comes: frames */

/* Charges the sender a point for each frame whose head ends in these bytes, but for those of a request's own weight. The heads
 * are read here, since nghttp2 calls nobody for a frame whose type it does not know. False: they cost too much. */
static bool
h2_weigh(struct h2 *h, struct slice in)
{
	int cost = 0;

	for (size_t n; in.n != 0 && cost <= H2_CALM; in.p += n, in.n -= n) {
		n = h->skip < in.n ? h->skip : in.n;
		h->skip -= n;
		if (n != 0)
			continue;
		h->head[h->head_n++] = (uint8_t)in.p[n++];
		if (h->head_n < sizeof h->head)
			continue;
		h->head_n = 0;
		h->skip = (size_t)load_be(h->head, 3);
		cost += h->head[3] == NGHTTP2_SETTINGS ? H2_CALM_RESET :
		    h->head[3] != NGHTTP2_DATA ? h->is_client || h->head[3] != NGHTTP2_HEADERS :
		    (h->head[4] & NGHTTP2_FLAG_PADDED) != 0 || (h->skip < H2_DATA_SMALL && (h->head[4] & NGHTTP2_FLAG_END_STREAM) == 0);
	}
	return h2_charge(h, cost) == 0;
}

static int
h2_on_begin_frame(nghttp2_session *s, const nghttp2_frame_hd *hd, void *user)
{
	const struct h2 *h = user;

	if (hd->type == NGHTTP2_HEADERS && !h->is_client && hd->stream_id <= nghttp2_session_get_last_proc_stream_id(s) &&
	    nghttp2_session_find_stream(s, hd->stream_id) == NULL)  /* a later one was opened: RFC 9113 5.1.1 */
		nghttp2_session_terminate_session(s, NGHTTP2_PROTOCOL_ERROR);
	return 0;
}

static int
h2_on_frame(nghttp2_session *s, const nghttp2_frame *f, void *user)
{
	struct stream *st = f->hd.stream_id == 0 ? NULL : nghttp2_session_get_stream_user_data(s, f->hd.stream_id);
	bool opens = f->hd.type == NGHTTP2_HEADERS && st != NULL && !st->headed;
	bool sized = opens && st->socket && st->sized;          /* a WebSocket goes on until one of both ends it */
	const struct h2 *h = user;
	int rc = 0;

	if (f->hd.type == NGHTTP2_GOAWAY && h->is_client && f->goaway.error_code == NGHTTP2_HTTP_1_1_REQUIRED)
		upstream_wants_http1(OWNER(h->wake.peer, struct upstream, peer)->key, true);
	if (f->hd.type == NGHTTP2_SETTINGS && h->is_client && (f->hd.flags & NGHTTP2_FLAG_ACK) == 0)
		h2_settled(OWNER(h->wake.peer, struct upstream, peer), /* with few streams, one would lead after the other */
		    nghttp2_session_get_remote_settings(s, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS) < H2_STREAMS / 4);
	if (st == NULL || (f->hd.type != NGHTTP2_HEADERS && f->hd.type != NGHTTP2_DATA))
		return 0;
	st->ended = st->ended || (f->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
	if (opens && (!stream_end_head(st) || (!st->is_client && (sized || !stream_conn(st)))))
		rc = nghttp2_submit_rst_stream(s, NGHTTP2_FLAG_NONE, st->id, st->is_client ? NGHTTP2_INTERNAL_ERROR :
		    sized ? NGHTTP2_PROTOCOL_ERROR : NGHTTP2_REFUSED_STREAM);
	if (opens || st->ended)
		stream_wake(st);
	return rc == 0 ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

static int
h2_on_data(nghttp2_session *s, uint8_t flags, int32_t id, const uint8_t *data, size_t n, void *user)
{
	struct stream *st = nghttp2_session_get_stream_user_data(s, id);

	if (st != NULL && (st->chunked || st->socket || n <= st->left) && buf_add(&st->in, data, n)) {
		st->left -= st->chunked || st->socket ? 0 : n;
		stream_wake(st);
		return 0;
	}
	if (st != NULL)                 /* more than its length, or than its window: nghttp2 has looked at both */
		nghttp2_submit_rst_stream(s, NGHTTP2_FLAG_NONE, id, NGHTTP2_PROTOCOL_ERROR);
	return nghttp2_session_consume_connection(s, n);
}

static int
h2_on_close(nghttp2_session *s, int32_t id, uint32_t code, void *user)
{
	struct stream *st = nghttp2_session_get_stream_user_data(s, id);
	bool cut = code != NGHTTP2_NO_ERROR || (st != NULL && (!st->ended || !st->done));
	const struct h2 *h = user;

	if (st != NULL) {
		nghttp2_session_set_stream_user_data(s, id, NULL);
		st->id = 0;
		if (cut)
			stream_gone(st, code);
	}
	return h2_charge(user, cut && (st != NULL || !h->is_client) ? H2_CALM_RESET : 0);   /* not what we reset upstream */
}

static int
h2_on_sent(nghttp2_session *s, const nghttp2_frame *f, void *user)
{
	struct h2 *h = user;

	if (f->hd.type == NGHTTP2_GOAWAY && f->goaway.error_code != NGHTTP2_NO_ERROR && !h->is_client)
		reqlog_note(OWNER(h->wake.peer, struct conn, peer), "client_h2", nghttp2_http2_strerror(f->goaway.error_code));
	return 0;
}

/* -- the stream as a wire: reading */
static ssize_t
stream_read(struct peer *p, char *out, size_t n)
{
	struct stream *st = p->stream;
	struct buf *b = &st->in;
	size_t k = st->head != 0 ? st->head : st->headed ? b->n : 0, at = 0;
	bool chunked;

	if (st->gone || (k == 0 && !st->ended)) {
		errno = st->gone ? ECONNRESET : EAGAIN;
		return -1;
	}
	st->taken = true;
	if (k == 0) {
		chunked = st->chunked;
		st->chunked = false;
		return chunked ? snprintf(out, n, "0\r\n%.*s\r\n", (int)st->trailers.n, st->trailers.n != 0 ? st->trailers.p : "") : 0;
	}
	k = k < n - 32 ? k : n - 32;
	chunked = st->head == 0 && st->chunked;
	if (chunked)
		at = (size_t)snprintf(out, 32, "%zx\r\n", k);
	memcpy(out + at, b->p, k);
	at += k;
	buf_drop(b, k);
	if (b->n == 0)
		buf_recycle(b, FLOW_BUF_KEEP);
	if (st->head != 0) {
		st->head -= k;
		return (ssize_t)at;
	}
	if (st->id != 0)
		nghttp2_session_consume(st->h2->s, st->id, k);
	else if (st->h2 != NULL)
		nghttp2_session_consume_connection(st->h2->s, k);
	if (st->h2 != NULL)
		loop_defer(&st->h2->wake.defer, h2_turn);
	if (chunked)
		memcpy(out + at, "\r\n", 2);
	return (ssize_t)at + 2 * chunked;
}

/* -- the stream as a wire: writing */

/* A field for nghttp2, which copies it. Its name becomes lower-case where it stands, in our own buffer. */
static nghttp2_nv
h2_field(const struct http_field *f)
{
	char *name = (char *)(uintptr_t)f->name.p;

	for (size_t i = 0; i < f->name.n; i++)
		name[i] = ascii_lower(name[i]);
	return (nghttp2_nv){(uint8_t *)name, (uint8_t *)(uintptr_t)f->value.p, f->name.n, f->value.n, NGHTTP2_NV_FLAG_NONE};
}

/* The data of an answer, out of its framing. */
static ssize_t
stream_give(nghttp2_session *s, int32_t id, uint8_t *out, size_t n, uint32_t *flags, nghttp2_data_source *source, void *user)
{
	struct stream *st = nghttp2_session_get_stream_user_data(s, id);
	struct http_field field[HTTP_TRAILER_FIELDS_MAX];
	nghttp2_nv nv[HTTP_TRAILER_FIELDS_MAX];
	struct h2 *h = user;
	struct wirebuf *b;
	size_t at = 0;

	while (st != NULL && !st->done && (b = st->wake.peer->out) != NULL) {
		struct slice in = {b->p + b->off, b->n - b->off}, piece = in;
		size_t used = 0, count, all = in.n;
		enum chunk_event e = CHUNK_DATA;

		if (in.n > n - at)
			in.n = n - at;
		if (st->mode == BODY_LENGTH) {
			piece.n = in.n < st->out_left ? in.n : (size_t)st->out_left;
			st->done = (st->out_left -= used = piece.n) == 0;
		} else {
			if (st->out_chunked.state != CHUNKED_BODY)      /* framing needs no window: a byte at a time */
				in.n = st->out_chunked.state == CHUNKED_TRAILERS ? all : 1;
			e = http_chunked_step(&st->out_chunked, in.p, in.n, &used, &piece);
			st->done = e == CHUNK_TRAILERS || e == CHUNK_END;
		}
		if (e == CHUNK_BAD)
			return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
		if (used == 0)
			break;
		if (e == CHUNK_DATA) {
			memcpy(out + at, piece.p, piece.n);
			at += piece.n;
		} else if (e == CHUNK_TRAILERS && http_parse_fields(piece.p, piece.n, field, HTTP_TRAILER_FIELDS_MAX, &count) > 0) {
			for (size_t i = 0; i < count; i++)
				nv[i] = h2_field(&field[i]);
			if (nghttp2_submit_trailer(s, id, nv, count) == 0)
				*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
		}
		wipe(b->p + b->off, used);
		wirebuf_took(&st->wake.peer->out, used, true);
	}
	if (st != NULL && st->wake.peer->shut && st->wake.peer->out == NULL)
		st->done = true;
	if (st == NULL || (at == 0 && !st->done))
		return st == NULL ? NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE : NGHTTP2_ERR_DEFERRED;
	if (st->done)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	h->calm += H2_CALM_DATA;
	stream_wake(st);
	return (ssize_t)at;
}

/* A request's head for nghttp2: `line` is its first, nv has the fields from 5 on, n of them with these. */
static bool
stream_ask(struct stream *st, struct slice line, const struct http_head *h, nghttp2_nv *nv, size_t n, const nghttp2_data_provider *give)
{
	struct slice method = slice_cut(&line, ' '), path = slice_cut(&line, ' '), authority = http_value(h, SLICE("host")),
	    scheme = OWNER(st->wake.peer, struct upstream, peer)->tls ? SLICE("https") : SLICE("http");
	const struct slice pseudo[][2] = {{SLICE_INIT(":method"), method}, {SLICE_INIT(":scheme"), scheme},
	    {SLICE_INIT(":authority"), authority}, {SLICE_INIT(":path"), path}, {SLICE_INIT("te"), SLICE_INIT("trailers")}};

	for (size_t i = 0; i < COUNT(pseudo); i++)
		nv[i] = (nghttp2_nv){(uint8_t *)(uintptr_t)pseudo[i][0].p, (uint8_t *)(uintptr_t)pseudo[i][1].p, pseudo[i][0].n,
		    pseudo[i][1].n, NGHTTP2_NV_FLAG_NONE};
	st->is_head = slice_eq(method, SLICE("HEAD"));
	st->done = h->body != BODY_CHUNKED && h->length == 0;
	st->h2->calm += H2_CALM_DATA;
	return (st->id = nghttp2_submit_request(st->h2->s, NULL, nv, n, st->done ? NULL : give, st)) > 0;
}

/* A message's head lies in peer->out: gives it to nghttp2. False: it is none, and the stream fails. */
static bool
stream_head(struct stream *st)
{
	static struct http_head head;           /* these two are dead when this returns */
	static nghttp2_nv nv[COUNT(head.field) + 5];
	const nghttp2_data_provider give = {.read_callback = stream_give};
	struct wirebuf *b = st->wake.peer->out;
	struct slice line, all = {b->p + b->off, b->n - b->off};
	size_t k = st->is_client ? 5 : 1;
	bool grpc, length, socket;
	ssize_t at, n;

	memset(&head, 0, offsetof(struct http_head, field));
	head.minor = 1;
	if ((at = http_line(all.p, all.n, &line)) <= 0 || (!st->is_client && http_parse_status_line(line, &head) != 0) ||
	    (n = http_parse_fields(all.p + at, all.n - (size_t)at, head.field, COUNT(head.field), &head.nfields)) <= 0 ||
	    http_judge_fields(&head) != NULL || (head.status == 101 && !st->socket) || (st->socket && head.status / 100 == 2))
		return false;
	if ((socket = head.status == 101)) {    /* RFC 8441 5: it is 200, and DATA goes until one of both ends it */
		head.status = 200;
		head.body = BODY_LENGTH;
		head.length = UINT64_MAX;
	}
	grpc = http_find(&head, SLICE("x-sallyport-error"), 0) >= 0 && http_find(&head, SLICE("grpc-status"), 0) >= 0;
	nv[0] = (nghttp2_nv){(uint8_t *)(uintptr_t)":status", (uint8_t *)(uintptr_t)(grpc || socket ? "200" : line.p + 9), 7, 3, NGHTTP2_NV_FLAG_NONE};
	length = st->is_client || (head.status >= 200 && !grpc && !socket);
	for (const struct http_field *f = head.field; f < head.field + head.nfields; f++)
		if ((f->rule & HDR_HOP) == 0 && !(socket && slice_eq_nocase(f->name, SLICE("sec-websocket-accept"))) && ((f->rule & HDR_FRAMING) == 0 ||
		    (length && slice_eq_nocase(f->name, SLICE("content-length")))))
			nv[k++] = h2_field(f);
	st->mode = (int)head.body;
	st->out_left = head.length;
	if (st->is_client) {
		if (!(st->answered = stream_ask(st, line, &head, nv, k, &give)))
			return false;
	} else if (head.status < 200) {
		if (nghttp2_session_get_outbound_queue_size(st->h2->s) * (size_t)(at + n + 256) < H2_TURN &&
		    nghttp2_submit_headers(st->h2->s, NGHTTP2_FLAG_NONE, st->id, NULL, nv, k, NULL) < 0)
			return false;
	} else {
		st->answered = true;
		st->done = st->is_head || head.status == 204 || head.status == 304 || (head.body != BODY_CHUNKED && head.length == 0);
		if (nghttp2_submit_response(st->h2->s, st->id, nv, k, st->done ? NULL : &give) != 0)
			return false;
	}
	wipe(b->p + b->off, (size_t)(at + n));
	wirebuf_took(&st->wake.peer->out, (size_t)(at + n), true);
	return true;
}

static int
stream_flush(struct peer *p)
{
	struct stream *st = p->stream;

	while (!st->gone && p->out != NULL && !st->answered)
		st->gone = !stream_head(st);
	if (st->gone)
		return p->failed = true, IO_ERR;
	if (st->done)
		wirebuf_put(&p->out, true);     /* nothing goes on behind the end */
	if (st->h2 != NULL)
		loop_defer(&st->h2->wake.defer, h2_turn);
	if (p->out == NULL && (!p->shut || st->done || st->id == 0))
		return IO_OK;
	nghttp2_session_resume_data(st->h2->s, st->id);
	return IO_AGAIN;
}

/* A refusal of ours becomes gRPC's: status and message are fields, without a body (its PROTOCOL-HTTP2, Trailers-Only). */
static void
grpc_fail(struct req *r, struct slice message, struct slice hint)
{
	int s = r->status, grpc = s == 400 ? 13 : s == 401 ? 16 : s == 403 ? 7 : s == 404 ? 12 :
	    s == 429 || (s >= 502 && s <= 504) ? 14 : 2;

	if (!slice_begins_nocase(http_value(&r->head, SLICE("content-type")), SLICE("application/grpc")))
		return;
	buf_clear(&r->answer);
	buf_clear(&r->fields);
	r->answer_json = false;
	buf_addf(&r->fields, "\r\nContent-Type: application/grpc\r\ngrpc-status: %d\r\ngrpc-message: ", grpc);
	pct_put(&r->fields, message, PCT_MESSAGE);
	pct_put(&r->fields, hint.n != 0 ? SLICE("; ") : hint, PCT_MESSAGE);
	pct_put(&r->fields, hint, PCT_MESSAGE);
}

/* The peer that carries it; a stream whose session has ended is its own. */
static struct peer *
h2_wire(struct peer *p)
{
	return p->stream != NULL && p->stream->h2 != NULL ? p->stream->h2->wake.peer : p;
}

/* -- the session */

/* NULL: no memory. */
static struct h2 *
h2_new(struct peer *p, bool is_client)
{
	/* the first is a server's (RFC 8441 3), the last two are a client's */
	static const nghttp2_settings_entry settings[] = {{NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1},
	    {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, H2_STREAMS},
	    {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HTTP_HEAD_MAX}, {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
	    {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, H2_WINDOW_UP}};
	static nghttp2_mem mem = {NULL, h2_malloc, h2_free, h2_calloc, h2_realloc};
	static nghttp2_session_callbacks *calls;
	static nghttp2_option *opt;
	struct h2 *h = calloc(1, sizeof *h);

	if (calls == NULL && (nghttp2_session_callbacks_new(&calls) != 0 || nghttp2_option_new(&opt) != 0))
		abort();
	nghttp2_session_callbacks_set_on_begin_headers_callback(calls, h2_on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback2(calls, h2_on_header);
	nghttp2_session_callbacks_set_on_invalid_header_callback2(calls, h2_on_header);
	nghttp2_session_callbacks_set_on_begin_frame_callback(calls, h2_on_begin_frame);
	nghttp2_session_callbacks_set_on_frame_recv_callback(calls, h2_on_frame);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(calls, h2_on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(calls, h2_on_close);
	nghttp2_session_callbacks_set_on_frame_send_callback(calls, h2_on_sent);
	nghttp2_option_set_no_auto_window_update(opt, 1);
	nghttp2_option_set_max_reserved_remote_streams(opt, 0);
	nghttp2_option_set_max_send_header_block_length(opt, 2 * PEER_HEAD_MAX);
	if (h == NULL || (is_client ? nghttp2_session_client_new3 : nghttp2_session_server_new3)(&h->s, calls, h, opt, &mem) != 0) {
		free(h);
		return NULL;
	}
	*h = (struct h2){.s = h->s, .wake.peer = p, .is_client = is_client, .calm = H2_CALM, .calm_at = clock_now(), .heard = clock_now(),
	    .skip = is_client ? 0 : NGHTTP2_CLIENT_MAGIC_LEN};
	nghttp2_submit_settings(h->s, NGHTTP2_FLAG_NONE, settings + is_client, is_client ? 4 : 3);
	nghttp2_session_set_local_window_size(h->s, NGHTTP2_FLAG_NONE, 0, H2_STREAMS * (is_client ? H2_WINDOW_UP : H2_WINDOW));
	return p->h2 = h;
}

/* Sends what nghttp2 has, as far as there is room. */
static bool
h2_send(struct h2 *h)
{
	const uint8_t *out;
	ssize_t n;

	while (peer_room(h->wake.peer, PEER_OUT_HIGH)) {
		if ((n = nghttp2_session_mem_send(h->s, &out)) <= 0)
			return n == 0 && peer_flush(h->wake.peer) != IO_ERR;
		if (!peer_put(h->wake.peer, out, (size_t)n))
			return false;
	}
	return !h->wake.peer->failed;
}

/* Ends the session, and its streams with it. */
static bool
h2_stop(struct conn *c, uint32_t code)
{
	struct h2 *h = c->peer.h2;

	nghttp2_session_terminate_session(h->s, code);
	h2_send(h);
	h2_leave(&c->peer);
	conn_linger(c);
	return true;
}

/* Reads the frames of a turn. *io: how far. Not 0: the error that the session ends with. */
static uint32_t
h2_read(struct h2 *h, enum io *io)
{
	size_t moved = 0;

	*io = IO_AGAIN;
	while (moved < H2_TURN && (*io = peer_fill(h->wake.peer)) == IO_OK) {
		struct slice in = peer_data(h->wake.peer);
		ssize_t n = h2_weigh(h, in) ? nghttp2_session_mem_recv(h->s, (const uint8_t *)in.p, in.n) : NGHTTP2_ERR_FLOODED;

		if (n < 0 || nghttp2_session_get_outbound_queue_size(h->s) > H2_QUEUE)
			return n >= 0 || h->calm < 0 || n == NGHTTP2_ERR_FLOODED || n == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS ?
			    NGHTTP2_ENHANCE_YOUR_CALM : NGHTTP2_PROTOCOL_ERROR;
		peer_consume(h->wake.peer, in.n);
		moved += in.n;
		h->heard = clock_now();
	}
	if (moved >= H2_TURN)
		loop_defer(&h->wake.defer, h2_turn);
	return NGHTTP2_NO_ERROR;
}

static bool
h2_step(struct conn *c)
{
	struct h2 *h = c->peer.h2 != NULL ? c->peer.h2 : h2_new(&c->peer, false);
	enum io io = IO_AGAIN;
	uint32_t code;

	if (h == NULL)
		return conn_close(c, true);
	if ((code = h2_read(h, &io)) != NGHTTP2_NO_ERROR)
		return h2_stop(c, code);
	if ((conn_draining || h->over) && !h->leaving) {
		h->leaving = true;
		nghttp2_submit_goaway(h->s, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(h->s), NGHTTP2_NO_ERROR, NULL, 0);
	}
	if (!h2_send(h))
		return conn_close(c, true);
	if (io == IO_EOF || io == IO_ERR)
		return conn_close(c, false);
	if (c->last || (!nghttp2_session_want_read(h->s) && !nghttp2_session_want_write(h->s)))
		return h2_stop(c, NGHTTP2_NO_ERROR);
	if (h->n == 0)
		peer_park(&c->peer);
	return false;
}

static void
h2_leave(struct peer *p)
{
	struct stream *st = p->stream;
	struct h2 *h = p->h2 != NULL ? p->h2 : st->h2;
	struct conn *c, *own = OWNER(p, struct conn, peer);

	if (p->h2 != NULL) {
		while ((st = LIST_FIRST(&h->streams)) != NULL) {
			LIST_REMOVE(st, link);
			st->h2 = NULL;
			st->id = 0;
			stream_gone(st, NGHTTP2_NO_ERROR);
		}
		loop_undefer(&h->wake.defer);
		nghttp2_session_del(h->s);
		free(h);
		p->h2 = NULL;
		return;
	}
	p->stream = NULL;
	if (h != NULL) {
		nghttp2_session_consume_connection(h->s, st->headed ? st->in.n - st->head : 0);
		if (st->id != 0) {
			nghttp2_session_set_stream_user_data(h->s, st->id, NULL);
			if (!st->done || !st->ended)
				nghttp2_submit_rst_stream(h->s, NGHTTP2_FLAG_NONE, st->id, st->is_client ? NGHTTP2_CANCEL :
				    st->done ? NGHTTP2_NO_ERROR : st->socket ? NGHTTP2_CANCEL : st->taken ? NGHTTP2_INTERNAL_ERROR : NGHTTP2_REFUSED_STREAM);
		}
		loop_defer(&h->wake.defer, h2_turn);
	}
	if (h != NULL && !h->is_client) {
		c = OWNER(h->wake.peer, struct conn, peer);
		if (c->agent == NULL && own->agent != NULL) {   /* on a Unix socket, each request says whose it is */
			(c->agent = own->agent)->conns++;
			conn_unknown -= c->counted_unknown;
			c->counted_unknown = false;
		}
		h->over = h->over || (c->tunnel && c->agent == NULL);
		if (h->n == 1 && c->state == CONN_H2)
			conn_deadline(c, c->agent == NULL ? CONN_HEAD_UNKNOWN_MS : CONN_IDLE_MS);
	}
	stream_free(st);
}

/* -- towards upstreams: the session's upstream is its own owner, until it is closed */

/* The event of an upstream that carries a session. */
static void
h2_event(struct upstream *u)
{
	struct h2 *h = u->peer.h2;
	bool late = u->state == UP_FAILED, over;        /* it was idle, or silent, for long enough; it ends */
	enum io io;
	uint32_t code = h2_read(h, &io);
	int64_t quiet = clock_now() - h->heard;

	u->state = UP_OPEN;
	over = code != NGHTTP2_NO_ERROR || (h->n == 0 && (late || conn_draining || u->tainted || u->trusts != upstream_trusts ||
	    !nghttp2_session_check_request_allowed(h->s) || nghttp2_session_get_outbound_queue_size(h->s) >= H2_STREAMS));
	if (over)
		nghttp2_session_terminate_session(h->s, code);
	else if (late && quiet >= H2_PING_MS)
		nghttp2_submit_ping(h->s, NGHTTP2_FLAG_NONE, NULL);
	if (!h2_send(h) || over || io == IO_EOF || io == IO_ERR || (late && quiet >= H2_PING_MS + H2_PONG_MS) ||
	    (!nghttp2_session_want_read(h->s) && !nghttp2_session_want_write(h->s)))
		upstream_free(u);
	else if (h->n != 0 && u->timer.slot == 0)
		timer_set(&u->timer, h->heard + H2_PING_MS + (quiet >= H2_PING_MS ? H2_PONG_MS : 0), upstream_timeout);
	else if (h->n == 0 && !u->idle)
		upstream_rest(u);
}

static struct upstream *
h2_find(const struct req *r, const char *key)
{
	struct upstream *hope = NULL;

	for (struct upstream *u = LIST_FIRST(&upstream_h2); u != NULL; u = LIST_NEXT(u, h2_link)) {
		const struct h2 *h = u->peer.h2;

		if (strcmp(u->key, key) != 0)
			continue;
		if (u->leads)           /* an open one is about to tell how many streams it takes */
			hope = hope == NULL && (h != NULL || h2_alone[u->hash % COUNT(h2_alone)] != u->hash) ? u : hope;
		else if (h != NULL && !u->idle && !u->tainted && u->trusts == upstream_trusts && h->n < H2_STREAMS &&
		    nghttp2_session_get_outbound_queue_size(h->s) < H2_STREAMS &&
		    nghttp2_session_check_request_allowed(h->s) &&
		    h->n < nghttp2_session_get_remote_settings(h->s, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS) &&
		    (!u->guarded || net_guard(&u->at, r->allow, r->nallow) == NULL))
			return u;
	}
	return hope;
}

static void
h2_settled(struct upstream *u, bool alone)
{
	for (struct conn *c = u->awaited ? LIST_FIRST(&conn_list) : NULL; c != NULL; c = LIST_NEXT(c, link))
		if (c->state == CONN_DIAL && c->req->up == NULL && text_hash(c->req->agent) == u->dial.owner)
			loop_defer(&c->defer, conn_turn);       /* it looks for itself */
	u->leads = u->awaited = false;
	if (alone || u->peer.h2 != NULL)
		h2_alone[u->hash % COUNT(h2_alone)] = alone ? u->hash : 0;
}

static struct upstream *
h2_join(struct req *r, struct upstream *u)
{
	struct upstream *own = u->peer.h2 == NULL ? u : NULL, *s, *other;
	struct stream *st;

	if (own != NULL && own->tls && !tls_is_h2(own->peer.tls)) {
		h2_settled(own, true);
		return own;
	}
	if (own != NULL && !r->retried && (other = h2_find(r, own->key)) != NULL && !other->leads) {   /* another was up before */
		upstream_drop(&own);
		u = other;
	} else if (own != NULL && h2_new(&own->peer, true) != NULL) {
		own->owner = own;
		own->event = h2_event;
	}
	s = u->peer.h2 != NULL ? upstream_new(u->key, u->host, u->port, u->tls, NULL, false) : NULL;
	if (s == NULL || (st = stream_new(u->peer.h2, H2_WINDOW_UP)) == NULL) {
		free(s);
		own != NULL ? upstream_drop(&own) : loop_defer(&u->peer.h2->wake.defer, h2_turn);
		return NULL;
	}
	s->peer.watch.ready = upstream_ready;
	s->peer.stream = st;
	st->wake.peer = &s->peer;
	st->h2->n++;
	s->h2 = r->up_h2 = true;
	s->state = UP_OPEN;
	s->requests = u->requests++;
	s->owner = r->conn;
	s->event = conn_upstream_event;
	return s;
}
#endif

/* ---- agent -----------------------------------------------------------------
 * What one agent may have of a worker: connections, requests in progress, requests that wait for
 * their turn, and room in the request log's queue. Skip it if you trust that one agent cannot
 * starve another.
 *
 * Invariants. A claimed request that has a share counts from req_claim to req_unclaim: in
 * `requests`, or while it waits in `held`. Held requests go on in the order in which they came. An
 * agent without connections, requests or records in the log's queue is freed. */

static bool reqlog_waits(const struct reqlog_share *s);
static bool reqlog_room(const struct reqlog_share *s);  /* below: it bounds a share, and calls agents_turn */
#define AGENT_REQUESTS 64       /* in progress, of one agent and worker; `agent set --requests` */
#define AGENT_HELD_MS 30000     /* what comes above waits so long for its turn */
#define AGENT_HELD_MAX (8 * 1024 * 1024) /* bytes of heads that wait, of one agent */
#define AGENT_SLOTS 256
#define DOOR_REQUESTS 16        /* of one connection at the door at once, */
#define DOOR_STREAMS 8          /* and its streams */
static struct agent *agent_slots[AGENT_SLOTS];

/* Where the pointer to the agent of that name is, or NULL is to be replaced. */
static struct agent **
agent_slot(const char *name)
{
	struct agent **a = &agent_slots[text_hash(name) % AGENT_SLOTS];

	while (*a != NULL && strcmp((*a)->name, name) != 0)
		a = &(*a)->next;
	return a;
}

/* Frees an agent that nothing counts for any more. */
static void
agent_put(struct agent *a)
{
	if (a->conns != 0 || a->requests != 0 || !TAILQ_EMPTY(&a->held) || reqlog_waits(&a->log))
		return;         /* one with records in the queue is freed after a later request of its own */
	*agent_slot(a->name) = a->next;
	free(a);
}

/* Has the agent more connections than a quarter of all? A connection that is told so closes. */
static bool
agent_over(const struct agent *a)
{
	return a != NULL && a->conns > conn_max / 4 + 1;
}

static void
req_unhold(struct req *r)
{
	TAILQ_REMOVE(&r->counted->held, r, held_link);
	r->counted->held_bytes -= sizeof *r + r->bytes.n;
	r->held = false;
}

/* Wakes the requests that waited longest, as far as the agent's share and the log's queue go. */
static void
agent_turns(struct agent *a)
{
	for (struct req *r; (r = TAILQ_FIRST(&a->held)) != NULL && a->requests < a->share && reqlog_room(&a->log); a->requests++) {
		req_unhold(r);
		req_wake_body(r);
	}
}

/* The agent of that name; NULL: out of memory. */
static struct agent *
agent_make(const char *name)
{
	struct agent **slot = agent_slot(name), *a = *slot;

	if (a != NULL || (a = calloc(1, sizeof *a)) == NULL)
		return a;
	text_copy(a->name, sizeof a->name, name);
	TAILQ_INIT(&a->held);
	return *slot = a;
}

/* At the door: the stream of a client that listens, and no request in progress. */
static bool
req_listens(const struct req *r)
{
	return r->form == REQ_DOOR && slice_eq(r->head.method, SLICE("GET"));
}

/* What the connection of this request of the door has at once: `conns` are its streams. */
static unsigned *
line_count(const struct req *r)
{
	return req_listens(r) ? &r->line->conns : &r->line->requests;
}

/* The request counts among those of its connection (the door's: r->token). False: it has its share. */
static bool
req_claim_line(struct req *r)
{
	char name[REQ_NAME_MAX] = "=";  /* no agent's name begins so */

	text_copy(name + 1, sizeof name - 1, r->token);
	if ((r->line = agent_make(name)) == NULL)
		return false;
	if ((*line_count(r))++ < (req_listens(r) ? DOOR_STREAMS : DOOR_REQUESTS))
		return true;
	req_unclaim(r);
	return false;
}

/* The request counts for its agent no longer, nor for its connection at the door. */
static void
req_unclaim(struct req *r)
{
	struct agent *a = r->counted;

	if (r->line != NULL) {
		--*line_count(r);
		agent_put(r->line);
		r->line = NULL;
	}
	if (a == NULL)
		return;
	if (r->held)
		req_unhold(r);
	else
		a->requests--;
	r->counted = NULL;
	agent_turns(a);
	agent_put(a);
}

/* The request counts for this agent from here on. With a `share`, the request has its turn at once
 * or is held; one for which there is no room is too_many. */
static void
req_claim(struct req *r, const char *name, unsigned share)
{
	struct conn *c = r->conn;
	struct agent *a;

	text_copy(r->agent, sizeof r->agent, name);
	if (r->counted != NULL || (a = agent_make(name)) == NULL)
		return;
	if (c->counted_unknown) {
		c->counted_unknown = false;
		conn_unknown--;
	}
	if (c->agent == NULL) {
		c->agent = a;
		a->conns++;
	}
	if (agent_over(a) || sizeof *r + r->bytes.n > AGENT_HELD_MAX - a->held_bytes)
		r->too_many = true;
	else if (share != 0 && !req_listens(r)) {
		TAILQ_INSERT_TAIL(&a->held, r, held_link);
		r->held = true;
		r->counted = a;
		a->held_bytes += sizeof *r + r->bytes.n;
		a->share = share;
		agent_turns(a);
	}
	agent_put(a);
}

/* ---- meter -----------------------------------------------------------------
 * Numbers for /metrics (lua/metrics.lua): what was asked and how it ended, since the server began, and how
 * long it took. They lie in memory that all workers share, so that the death of one loses none. A cell
 * belongs to two names, of an agent and a credential, say; who takes it writes them, and only then the kind,
 * without which nobody reads them. Invariants: a cell is never given back; where none is free nearby, the first of the
 * kind counts ("other"). Names are the operator's or ours, never a client's. Skip it if you trust that. */
enum meter_kind { METER_REQUEST, METER_CODE, METER_COUNT, METER_KINDS };

#define METER_CELLS 1024
#define METER_NEAR 32           /* cells that are looked at for one pair of names */
#define METER_STEPS 24          /* of a histogram: step i has what took less than 2^i ms */
#define METER_NAME 72

/* As lua/metrics.lua reads it: little or big endian as the machine, without gaps. */
struct meter_cell {
	_Atomic uint64_t key;   /* 0: nobody has it */
	_Atomic uint64_t kind;  /* 1 + enum meter_kind; 0: its names are not there yet */
	char a[METER_NAME], b[METER_NAME];
	_Atomic uint64_t n[12]; /* of requests: refused, then allowed; each by the hundreds of the status, 0: none */
};

static struct meters {
	struct meter_cell cell[METER_CELLS];    /* the first METER_KINDS: other */
	_Atomic uint64_t took[3][METER_STEPS + 1];      /* to the first byte, in all, until it was decided; the last is the sum, ms */
} *meters;                              /* shared; NULL in a command */

static void
meter_add(enum meter_kind kind, const char *a, uint32_t hash_of_a, const char *b, unsigned of)
{
	uint64_t key = (((uint64_t)hash_of_a << 32 | text_hash(b)) * METER_KINDS + kind) << 1 | 1, was;

	for (uint64_t i = 0; meters != NULL; i++) {
		struct meter_cell *c = &meters->cell[i == METER_NEAR ? kind :
		    METER_KINDS + (key / 2 + i) % (METER_CELLS - METER_KINDS)];

		was = atomic_load(&c->key);
		if (was == 0 && i < METER_NEAR && atomic_compare_exchange_strong(&c->key, &was, key)) {
			text_copy(c->a, sizeof c->a, a);
			text_copy(c->b, sizeof c->b, b);
			atomic_store(&c->kind, kind + 1);
			was = key;
		}
		if (was == key || i == METER_NEAR) {
			atomic_fetch_add_explicit(&c->n[of], 1, memory_order_relaxed);
			return;
		}
	}
}

static void
meter_took(unsigned what, int64_t ms)
{
	unsigned step = ms <= 0 ? 0 : 64 - (unsigned)__builtin_clzll((uint64_t)ms);

	atomic_fetch_add_explicit(&meters->took[what][step < METER_STEPS ? step : METER_STEPS - 1], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&meters->took[what][METER_STEPS], ms > 0 ? (uint64_t)ms : 0, memory_order_relaxed);
}

/* A request whose record is written; without an id it is the end of a connection (reqlog_note). */
static void
meter_request(const struct req *r, uint32_t hash_of_agent)
{
	if (meters == NULL)
		return;
	if (r->code[0] != '\0')
		meter_add(METER_CODE, r->code, text_hash(r->code), "", 0);
	if (r->id[0] == '\0')
		return;
	meter_add(METER_REQUEST, r->agent, hash_of_agent, r->credential,
	    (r->allowed ? 6 : 0) + (unsigned)r->status / 100 % 6);
	if (r->t_first != 0)
		meter_took(0, r->t_first - r->t_start);
	meter_took(1, clock_now() - r->t_start);
	if (r->sent)
		meter_took(2, r->judged - r->t_start);
}

/* ---- count -----------------------------------------------------------------
 * Counters that all workers share: how often a rule let something through, in a window of time. They
 * live in memory that the master made before it forked, and end with the server. A counter's key is 64
 * bits of the SHA-256 of its name and window, its value the window's number over the count. Nothing is
 * locked: a cell is taken by one exchange of its end, and counted by one of its value. Invariants: two keys
 * never share a cell, but for a collision of 64 bits; only a cell whose window is over is taken; where none
 * is free nearby, or who takes it has its share, nothing is counted, and who asked is told so, which refuses
 * the request.
 * Skip it if you trust that. */

#define COUNT_CELLS (1u << 16)
#define COUNT_NEAR 32           /* cells that are looked at for one key */
#define COUNT_BITS 40           /* of a value that count; the others are its window's end */
#define COUNT_OWNERS 256
#define COUNT_SHARE (COUNT_CELLS / 8)   /* cells of one owner: an agent may make a rule count what it likes */

struct count_cell {
	_Atomic uint64_t key;
	_Atomic uint64_t value;
	_Atomic int64_t ends;   /* Unix s at which its window is over; 0: nobody has had it */
	_Atomic uint32_t owner; /* who took it: one of COUNT_OWNERS */
};

static struct count_table {
	struct count_cell cell[COUNT_CELLS];
	_Atomic uint32_t taken[COUNT_OWNERS];   /* cells that each took */
} *count_table;                         /* shared; NULL in a command */

/* False: no memory. Before the first worker. */
static bool
count_init(void)
{
	count_table = mmap(NULL, sizeof *count_table + sizeof *meters, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	meters = (struct meters *)(count_table + 1);
	return count_table != MAP_FAILED;
}

/* The cell of that key, whose window then ends at `ends`; one whose window is over is taken, for `owner`, and
 * by one that has its share only in the place of its own; COUNT_OWNERS is who looks, and takes none. NULL: all
 * that are near are in use, or who looks finds none. */
static struct count_cell *
count_find(uint64_t key, int64_t now, int64_t ends, uint32_t owner)
{
	bool full = owner < COUNT_OWNERS && atomic_load(&count_table->taken[owner]) >= COUNT_SHARE;

	for (int taking = 0; taking < 2; taking++)
		for (uint64_t i = 0; i < COUNT_NEAR; i++) {
			struct count_cell *c = &count_table->cell[(key + i) % COUNT_CELLS];
			int64_t ended = atomic_load(&c->ends);
			uint32_t was = atomic_load(&c->owner);

			if (ended <= now && owner < COUNT_OWNERS &&
			    (taking ? !full || (was == owner && ended != 0) : atomic_load(&c->key) == key) &&
			    atomic_compare_exchange_strong(&c->ends, &ended, ends)) {
				atomic_store(&c->key, key);
				atomic_fetch_add(&count_table->taken[owner], 1);
				if (ended != 0)
					atomic_fetch_sub(&count_table->taken[was], 1);
				atomic_store(&c->owner, owner);
			}
			if (atomic_load(&c->key) == key && atomic_load(&c->ends) > now)
				return c;
		}
	return NULL;
}

/* Adds n, which may be negative, to the counter of that key, which begins anew once `ends` has passed, and
 * answers what it has then. first: only where it has nothing; of 0 that is a look, which makes no counter.
 * Negative: no cell is free, there is nothing to look at, or this process shares none. */
static int64_t
count_add(uint64_t key, int64_t ends, int64_t n, bool first, uint32_t owner)
{
	const int64_t most = ((int64_t)1 << COUNT_BITS) - 1;
	int64_t now = clock_wall(), has;
	uint64_t number = (uint64_t)ends << COUNT_BITS, was;
	struct count_cell *c;

	owner = first && n == 0 ? COUNT_OWNERS : owner % COUNT_OWNERS;
	if (count_table == NULL || ends <= now || (c = count_find(key, now, ends, owner)) == NULL)
		return -1;
	was = atomic_load(&c->value);
	do {
		has = was >> COUNT_BITS << COUNT_BITS == number ? (int64_t)(was - number) : 0;
		if (!first || has == 0)
			has = n > most - has ? most : n < -has ? 0 : has + n;
	} while (!atomic_compare_exchange_weak(&c->value, &was, number | (uint64_t)has));
	return has;
}

/* ---- store: records --------------------------------------------------------
 * What lies on the disk under a key, in one LMDB environment, HOME/store. Invariants:
 *  - A record is magic, format, version, id, epoch, plain JSON, secrets sealed one by one, and a tag
 *    over all of it with its database and key. A record whose tag does not fit is `damaged`.
 *  - The id is random, made with the record and kept by what replaces it. A record that is removed
 *    and made again has another. The epoch is drawn anew when what was given out before must end: a
 *    secret was replaced, an agent's tokens were. It is not counted: after a restore, a counter
 *    would come to values that it had before.
 *  - Every number on the disk inside a value is big-endian: backups move between machines.
 * Skip it unless you ask what a thief of the disk reads. */
#ifndef STORE_MAP_SIZE
/* Sparse; 256 MiB is what 32 bits can map. */
#define STORE_MAP_SIZE ((size_t)(sizeof(void *) >= 8 ? 1024 : 256) << 20)
#endif
#define STORE_READERS 256               /* processes that read at once: workers and commands */
#define STORE_KEY_MAX 500
#define STORE_KEY_LMDB 511              /* somebody else's may be as long, and ours stand behind it */
#define STORE_SECRET_NAME_MAX 255       /* its length is one byte */
#define STORE_PLAIN_MAX (1u << 20)      /* a policy's source is the largest plain text */
#define STORE_SECRET_MAX (1u << 20)     /* the arena's largest block */
#define STORE_SECRETS_MAX 256           /* of a record: a document split into members */
#define STORE_BATCH_MAX (32u << 20)     /* a worker's memory; commands cut longer imports up */
#define STORE_OPS_MAX 16384
#define STORE_RESERVE (256u << 10)      /* allocated ahead: 20 commits of 3 pages */
#define STORE_ROOM_COST (64u << 10)     /* the pages above a record in the tree are copied too */
#define STORE_LOCK_POLL_NS 2000000      /* a commit on flash takes some ms */
#define STORE_REOPEN_MS 1000            /* a disk that fails is not asked at each request */
#define STORE_OPEN_WAIT_MS 10000        /* another init in progress */
#define STORE_COPY_KEPT 65536           /* of the memory in which records are judged */
#define STORE_REPLACED_MS 1000          /* between two looks whether the files are still there */

#define STORE_FORMAT 2                  /* 1 was never released, and is not read */
#define STORE_TAG 32                    /* HMAC-SHA256 */
#define STORE_HEAD 48                   /* store_record_head */
#define STORE_ID 16                     /* random: never two alike */
#define STORE_EPOCH_BITS 53             /* a number in JSON */
#define STORE_SEAL_OVER (12 + 16)       /* RFC 8439: nonce and tag */
#define STORE_DROP UINT32_MAX           /* a secret's n, in a batch: it is removed, though others stay */

/* The codes are a contract (DESIGN.md), and lua/cli/db.lua has a sentence for each. */
#define STORE_ERRORS(X) \
	X(STORE_OK, "ok") X(STORE_ABSENT, "absent") X(STORE_EXISTS, "exists") \
	X(STORE_DAMAGED, "damaged") X(STORE_LOCKED, "locked") X(STORE_NOT_OWNER, "not_owner") \
	X(STORE_KEY_ABSENT, "key_absent") X(STORE_KEY_MODE, "key_mode") \
	X(STORE_WRONG_KEY, "wrong_key") X(STORE_NEWER, "newer_format") \
	X(STORE_OTHER, "other_store") X(STORE_FULL, "full") \
	X(STORE_BUSY, "busy") X(STORE_TIMEOUT, "timeout") X(STORE_CONFLICT, "conflict") \
	X(STORE_INVALID, "invalid") X(STORE_MEMORY, "memory") X(STORE_IO, "io")

enum store_err {
#define X(err, code) err,
	STORE_ERRORS(X)
#undef X
};

/* Where and why opening failed; lua/cli/db.lua makes a sentence of it. */
static struct store_fault {
	const char *place;      /* static; below the data directory; NULL: nothing more is known */
	const char *why;        /* static: LMDB's or the system's words; NULL: none */
	long n;                 /* a foreign owner, a key file's mode, a newer format; -1: none */
} store_fault;

enum store_how { STORE_WITH_KEY, STORE_KEYLESS };

static const char *const store_codes[] = {
#define X(err, code) code,
	STORE_ERRORS(X)
#undef X
};

enum store_db {
	DB_META, DB_POLICY, DB_CREDENTIAL, DB_STATE, DB_BUNDLE, DB_AGENT, DB_LEASE,
	/* from here on: of a later version than format 2's first */
	DB_USER, DB_CLIENT, DB_GATEWAY, DB_GRANT, DB_TOKEN, DB_APPROVAL, DB_COUNTER, DB_PROPOSAL,
	STORE_DBS,
};
enum store_bump { BUMP_NONE, BUMP_CONFIG, BUMP_STATE };

static const struct {
	const char *name;
	enum store_bump bump;   /* the generation that a write moves */
	char kind;              /* in the table (section table): all that moves `config`; 0: not in it */
} store_dbs[STORE_DBS] = {
	[DB_META] = {"meta", BUMP_CONFIG, 'm'},
	[DB_POLICY] = {"policy", BUMP_CONFIG, 'p'},
	[DB_CREDENTIAL] = {"credential", BUMP_CONFIG, 'c'},
	[DB_STATE] = {"state", BUMP_STATE, 0},          /* an old token grants nothing new */
	[DB_BUNDLE] = {"bundle", BUMP_CONFIG, 'b'},
	[DB_AGENT] = {"agent", BUMP_CONFIG, 'a'},
	[DB_LEASE] = {"lease", BUMP_NONE, 0},           /* of one boot of one machine */
	[DB_USER] = {"user", BUMP_CONFIG, 'u'},
	[DB_CLIENT] = {"client", BUMP_CONFIG, 'l'},
	[DB_GATEWAY] = {"gateway", BUMP_CONFIG, 'w'},
	[DB_GRANT] = {"grant", BUMP_CONFIG, 'g'},
	[DB_TOKEN] = {"token", BUMP_NONE, 0},           /* counts while its grant is listed */
	[DB_APPROVAL] = {"approval", BUMP_NONE, 0},     /* ends by itself, soon */
	[DB_COUNTER] = {"counter", BUMP_NONE, 0},       /* of rules */
	[DB_PROPOSAL] = {"proposal", BUMP_NONE, 0},     /* opens nothing */
};

/* The store's own entries in meta begin with a byte that no record's key begins with. Counters:
 *   offset  bytes
 *   0       8      config generation; what counts is that of the table's root
 *   8       8      state generation
 *   16      8      version
 *   24      8      room */
#define STORE_K_FORMAT SLICE("\1format")        /* 4 bytes: STORE_FORMAT */
#define STORE_K_DATAKEY SLICE("\1datakey")      /* DATAKEY_LEN bytes, below */
#define STORE_K_COUNTERS SLICE("\1counters")    /* 32 bytes: struct store_counters */

/* The wrapped data key (AEAD_CHACHA20_POLY1305, RFC 8439 2.8):
 *   offset  bytes
 *   0       4      "SPK1"
 *   4       1      kind of wrapping
 *   5       3      zero
 *   8       16     id of the key file (store_key_id)
 *   24      12     nonce
 *   36      32     data key, ciphertext
 *   68      16     tag; the first 24 bytes are the additional data */
#define DATAKEY_MAGIC "SPK1"
#define DATAKEY_FILE 1          /* wrapped by HOME/key; a passphrase or TPM will be another */
#define DATAKEY_AAD 24          /* magic 4, kind 1, zero 3, id 16: bound to the wrapping */
#define DATAKEY_LEN (DATAKEY_AAD + 12 + 32 + 16)

struct store_counters {
	uint64_t config, state; /* generations */
	uint64_t version;       /* of the last commit; a record carries that of its own */
	uint64_t room;          /* bytes promised to records that will be replaced by larger ones */
};

/* All of it lies in the arena: BearSSL's HMAC key contexts are as good as the keys. */
struct store_keys {
	uint8_t data[32];       /* the root; wrapped on the disk */
	uint8_t seal[32];
	br_hmac_key_context derive, tag, table, stream, texts;
};

static struct {
	char home[PATH_MAX];    /* of the last store_open, also of one that failed */
	MDB_env *env;           /* owned; NULL: not open */
	mdb_filehandle_t fd;    /* borrowed from env: data.mdb */
	MDB_dbi dbi[STORE_DBS]; /* opened once, in a committed transaction */
	MDB_txn *reader;        /* owned; loop thread; reset between uses; NULL until the first */
	bool reading;           /* the reader has a snapshot */
	struct store_counters counters; /* as of the transaction `counted` */
	size_t counted;         /* LMDB's id of a transaction; 0: counters are not read */
	struct secret *keys;    /* owned; holds struct store_keys; NULL: opened without the key */
	int lock_fd;            /* owned; writer.lock */
	unsigned psize;
	unsigned inflight;      /* commits handed to the helper thread */
	int64_t reopen_at;      /* monotonic ms */
	struct stat file[2];    /* what is open: data.mdb and lock.mdb */
	int64_t look_at;        /* monotonic ms; when they are looked for again */
	/* LMDB gave up on its environment: open it again when nothing is in flight */
	_Atomic bool failed;
} store;

static enum store_err
store_fail(enum store_err err, const char *place, const char *why, long n)
{
	store_fault = (struct store_fault){place, why, n};
	return err;
}

static bool
store_path(char out[PATH_MAX], const char *home, const char *name)
{
	int n = snprintf(out, PATH_MAX, "%s/%s", home, name);

	return n > 0 && n < PATH_MAX;
}

/* rc: errno, or LMDB's. */
static enum store_err
store_err_of(int rc)
{
	static const struct { int rc; enum store_err err; } of[] = {
		{MDB_NOTFOUND, STORE_ABSENT}, {MDB_READERS_FULL, STORE_BUSY}, {MDB_BAD_VALSIZE, STORE_INVALID},
		{MDB_MAP_FULL, STORE_FULL}, {MDB_TXN_FULL, STORE_FULL}, {ENOSPC, STORE_FULL},
		{EDQUOT, STORE_FULL}, {EFBIG, STORE_FULL}, {ENOMEM, STORE_MEMORY}, {EACCES, STORE_NOT_OWNER},
		{MDB_CORRUPTED, STORE_DAMAGED}, {MDB_PAGE_NOTFOUND, STORE_DAMAGED}, {MDB_INVALID, STORE_DAMAGED},
		{MDB_VERSION_MISMATCH, STORE_DAMAGED}, {MDB_INCOMPATIBLE, STORE_DAMAGED},
	};
	struct statvfs fs;

	for (size_t i = 0; rc != 0 && i < COUNT(of); i++)
		if (of[i].rc == rc)
			return of[i].err;
	if (rc == EIO && statvfs(store.home, &fs) == 0 && fs.f_bavail < 64)
		return STORE_FULL;      /* LMDB's answer to a short write, which is how a disk fills up */
	return rc == 0 ? STORE_OK : STORE_IO;
}

static enum store_err
store_fail_rc(int rc, const char *place)
{
	return store_fail(store_err_of(rc), place, mdb_strerror(rc), -1);
}

static MDB_val
store_val(struct slice s)
{
	return (MDB_val){.mv_size = s.n, .mv_data = (void *)(uintptr_t)s.p};
}

static struct slice
store_slice(MDB_val v)
{
	return (struct slice){v.mv_data, v.mv_size};
}

/* *value: the bytes under a key, unverified; borrowed from the transaction. */
static enum store_err
store_raw_get(MDB_txn *txn, enum store_db db, struct slice key, struct slice *value)
{
	MDB_val k = store_val(key), v;
	int rc = mdb_get(txn, store.dbi[db], &k, &v);

	*value = rc == 0 ? store_slice(v) : (struct slice){NULL, 0};
	return store_err_of(rc);
}

/* Without a value (p NULL) the entry is deleted. */
static enum store_err
store_raw_put(MDB_txn *txn, enum store_db db, struct slice key, struct slice value)
{
	MDB_val k = store_val(key), v = store_val(value);

	return store_err_of(value.p == NULL ? mdb_del(txn, store.dbi[db], &k, NULL) :
	    mdb_put(txn, store.dbi[db], &k, &v, 0));
}

/* A record's key has no NUL, which ends the keys of change lists, and begins with no control byte,
 * as the store's own keys do. */
static bool
store_key_ok(struct slice key)
{
	return key.n != 0 && key.n <= STORE_KEY_MAX && (unsigned char)key.p[0] >= 0x20 &&
	    memchr(key.p, '\0', key.n) == NULL;
}

/* -- keys and sealing */

/* Derives one key for each purpose, so that what one key made never passes for another's. */
static void
store_keys_derive(struct store_keys *k)
{
	const struct { struct slice label; br_hmac_key_context *key; } of[] = {
		{SLICE_INIT("sallyport derive 1"), &k->derive}, {SLICE_INIT("sallyport tag 1"), &k->tag},
		{SLICE_INIT("sallyport table 1"), &k->table}, {SLICE_INIT("sallyport backup 1"), &k->stream},
		{SLICE_INIT("sallyport sealed text 1"), &k->texts},
	};
	struct slice root = {(const char *)k->data, sizeof k->data};
	uint8_t sub[32];

	sign_hmac(SIGN_SHA256, root, &SLICE("sallyport seal 1"), 1, k->seal);
	for (size_t i = 0; i < COUNT(of); i++) {
		sign_hmac(SIGN_SHA256, root, &of[i].label, 1, sub);
		br_hmac_key_init(of[i].key, &br_sha256_vtable, sub, sizeof sub);
	}
	wipe(sub, sizeof sub);
}

static const struct store_keys *
store_keys_of(const struct secret *s)
{
	return s != NULL ? (const struct store_keys *)(const void *)s->p : NULL;
}

/* AEAD_CHACHA20_POLY1305 (RFC 8439 2.8), in place. Writes the tag also when it decrypts: the caller
 * compares. */
static void
store_aead(const uint8_t key[32], const uint8_t nonce[12], void *data, size_t n, struct slice aad,
    uint8_t tag[16], bool encrypt)
{
	br_chacha20_run chacha20 = br_chacha20_sse2_get();
	br_poly1305_run poly1305 = br_poly1305_ctmulq_get();

	(poly1305 != NULL ? poly1305 : br_poly1305_ctmul_run)(key, nonce, data, n, aad.p, aad.n, tag,
	    chacha20 != NULL ? chacha20 : br_chacha20_ct_run, encrypt);
}

/* The id of the key file's key: tells a wrong file from a damaged wrapping. */
static void
store_key_id(const uint8_t kek[32], uint8_t id[16])
{
	uint8_t h[32];

	sign_hmac(SIGN_SHA256, (struct slice){(const char *)kek, 32}, &SLICE("sallyport key id 1"), 1, h);
	memcpy(id, h, 16);
}

/* Wraps the data key with the key file's key. False: no randomness. */
static bool
store_datakey_wrap(const uint8_t kek[32], const uint8_t data[32], uint8_t out[DATAKEY_LEN])
{
	uint8_t *nonce = out + DATAKEY_AAD, *body = nonce + 12;

	memset(out, 0, DATAKEY_LEN);
	memcpy(out, DATAKEY_MAGIC, 4);
	out[4] = DATAKEY_FILE;
	store_key_id(kek, out + 8);
	if (!rand_bytes(nonce, 12))
		return false;
	memcpy(body, data, 32);
	store_aead(kek, nonce, body, 32, (struct slice){(char *)out, DATAKEY_AAD}, body + 32, true);
	return true;
}

/* Opens the data key, and derives the others from it. WRONG_KEY: another key file wrapped it. */
static enum store_err
store_datakey_unwrap(const uint8_t kek[32], struct slice blob, struct store_keys *k)
{
	uint8_t id[16], tag[16];
	const uint8_t *p = (const uint8_t *)blob.p;

	if (blob.n != DATAKEY_LEN || memcmp(p, DATAKEY_MAGIC, 4) != 0)
		return STORE_DAMAGED;
	if (p[4] != DATAKEY_FILE)
		return STORE_NEWER;
	store_key_id(kek, id);
	if (!ct_eq(id, p + 8, sizeof id))
		return STORE_WRONG_KEY;
	memcpy(k->data, p + DATAKEY_AAD + 12, 32);
	store_aead(kek, p + DATAKEY_AAD, k->data, 32, (struct slice){blob.p, DATAKEY_AAD}, tag,
	    false);
	if (!ct_eq(tag, p + DATAKEY_LEN - 16, 16)) {
		wipe(k->data, sizeof k->data);
		return STORE_DAMAGED;
	}
	store_keys_derive(k);
	return STORE_OK;
}

/* The additional data of a sealed secret, and the begin of what a tag covers: the place, so that
 * neither holds at another place. The lengths keep two places from reading alike. Returns the
 * bytes:
 *   offset  bytes
 *   0       1      d
 *   1       d      the database's name
 *   1+d     2      k
 *   3+d     k      the record's key
 *   3+d+k   1      s; 0 for a tag
 *   4+d+k   s      the secret's name */
#define STORE_AAD_MAX (1 + 16 + 2 + STORE_KEY_MAX + 1 + STORE_SECRET_NAME_MAX)
static size_t
store_aad(uint8_t out[STORE_AAD_MAX], enum store_db db, struct slice key, struct slice name)
{
	size_t dbn = strlen(store_dbs[db].name), n = 0;

	assert(key.n <= STORE_KEY_MAX && name.n <= STORE_SECRET_NAME_MAX && dbn <= 16);
	out[n++] = (uint8_t)dbn;
	memcpy(out + n, store_dbs[db].name, dbn);
	n += dbn;
	store_be16(out + n, (uint16_t)key.n);
	n += 2;
	memcpy(out + n, key.p, key.n);
	n += key.n;
	out[n++] = (uint8_t)name.n;
	if (name.n != 0)
		memcpy(out + n, name.p, name.n);
	return n + name.n;
}

static void
store_tag(const struct store_keys *k, enum store_db db, struct slice key, struct slice body,
    uint8_t out[STORE_TAG])
{
	uint8_t aad[STORE_AAD_MAX];

	sign_mac(&k->tag, (struct slice[]){{(char *)aad, store_aad(aad, db, key, SLICE(""))}, body}, 2, out);
}

/* -- records: the value under a record's key
 *   offset  bytes
 *   0       3      "SPR"
 *   3       1      STORE_FORMAT
 *   4       8      version: of the commit that wrote it
 *   12      4      room
 *   16      4      p, bytes of the plain part
 *   20      2      number of sealed secrets
 *   22      2      zero
 *   24      16     id
 *   40      8      epoch
 *   48      p      plain part, JSON
 *   48+p    ...    the sealed secrets
 *   end-32  32     HMAC-SHA256 over the place (store_aad) and all bytes before (store_tag)
 *
 * A sealed secret (AEAD_CHACHA20_POLY1305, RFC 8439 2.8; the additional data is store_aad's):
 *   offset  bytes
 *   0       1      s
 *   1       s      name
 *   1+s     4      n; in a batch STORE_DROP: nothing follows
 *   5+s     12     nonce
 *   17+s    n      ciphertext
 *   17+s+n  16     tag */
struct store_record {
	uint64_t version;
	uint32_t room;          /* bytes promised to its successor */
	unsigned nseals;
	struct slice plain;     /* JSON text; borrowed from the read transaction, like `seals` */
	struct slice seals;
	bool verified;          /* false only in a store opened without its key */
	uint8_t id[STORE_ID];
	uint64_t epoch;
	const char *why;        /* static; store_judge's, of one that is damaged though it was written so once */
};

struct store_seal {
	struct slice name, nonce, text, tag;    /* borrowed from the record; text: the ciphertext */
	bool drop;                              /* only in batches: the secret is removed */
	struct slice whole;                     /* all of the above, as they lie there */
};

/* Takes the next sealed secret off `seals`. False: malformed, or `seals` is empty. */
static bool
store_seal_next(struct slice *seals, struct store_seal *out)
{
	const char *p = seals->p;
	size_t left = seals->n, namen, n, total;

	if (left < 1 || left < 1 + (namen = (uint8_t)p[0]) + 4)
		return false;
	n = load_be32(p + 1 + namen);
	out->name = (struct slice){p + 1, namen};
	out->drop = n == STORE_DROP;
	total = 1 + namen + 4;
	if (!out->drop) {
		if (n > STORE_SECRET_MAX || left - total < n + STORE_SEAL_OVER)
			return false;
		out->nonce = (struct slice){p + total, 12};
		out->text = (struct slice){p + total + 12, n};
		out->tag = (struct slice){p + total + 12 + n, 16};
		total += n + STORE_SEAL_OVER;
	}
	out->whole = (struct slice){p, total};
	*seals = (struct slice){p + total, left - total};
	return true;
}

static bool
store_seal_find(struct slice seals, struct slice name, struct store_seal *out)
{
	while (seals.n != 0 && store_seal_next(&seals, out))
		if (slice_eq(out->name, name))
			return true;
	return false;
}

static void
store_record_head(uint8_t out[STORE_HEAD], const struct store_record *r, size_t plain)
{
	memcpy(out, "SPR", 3);
	out[3] = STORE_FORMAT;
	store_be64(out + 4, r->version);
	store_be32(out + 12, r->room);
	store_be32(out + 16, (uint32_t)plain);
	store_be16(out + 20, (uint16_t)r->nseals);
	store_be16(out + 22, 0);
	memcpy(out + 24, r->id, STORE_ID);
	store_be64(out + 40, r->epoch);
}

static bool
store_record_parse(struct slice v, struct store_record *r)
{
	const char *p = v.p;
	struct slice rest;
	struct store_seal s;
	unsigned n = 0;
	size_t plain;

	if (v.n < STORE_HEAD + STORE_TAG || memcmp(p, "SPR", 3) != 0 || p[3] != STORE_FORMAT ||
	    (plain = load_be32(p + 16)) > v.n - STORE_HEAD - STORE_TAG)
		return false;
	*r = (struct store_record){
		.version = load_be64(p + 4),
		.room = load_be32(p + 12),
		.nseals = load_be16(p + 20),
		.plain = {p + STORE_HEAD, plain},
		.seals = {p + STORE_HEAD + plain, v.n - STORE_HEAD - STORE_TAG - plain},
		.epoch = load_be64(p + 40),
	};
	memcpy(r->id, p + 24, STORE_ID);
	for (rest = r->seals; rest.n != 0; n++)
		if (!store_seal_next(&rest, &s) || s.drop)
			return false;
	return n == r->nseals;
}

/* Parses a record and, with the keys, verifies the tag over its bytes and its place. */
static enum store_err
store_record_check(const struct store_keys *k, enum store_db db, struct slice key, struct slice v,
    struct store_record *r)
{
	uint8_t tag[STORE_TAG];

	if (!store_record_parse(v, r))
		return STORE_DAMAGED;
	r->verified = false;
	if (k == NULL)
		return STORE_OK;
	store_tag(k, db, key, (struct slice){v.p, v.n - STORE_TAG}, tag);
	r->verified = ct_eq(tag, v.p + v.n - STORE_TAG, STORE_TAG);
	return r->verified ? STORE_OK : STORE_DAMAGED;
}

/* ---- table -----------------------------------------------------------------
 * Which records there are. A record's own tag says that we wrote it once; the table says that it is
 * the last that we wrote under its name, so an older one that somebody puts back is noticed, one
 * that was removed and comes back, and one that is gone. Invariants:
 *  - It lists every record of the databases with a `kind` (store_dbs): all that grants something.
 *  - What no bucket lists does not exist. A bucket that had to begin anew (TABLE_LOST) does not know
 *    what was in it: there, what is not listed is damaged, and never absent.
 *  - It is a tree, and each node holds a MAC of every node below it. So an older node beside newer
 *    ones does not fit. A sum or an exclusive-or of keyed values would not do instead of the root's
 *    MAC: whoever has many old ones finds some that add up to another (Wagner 2002).
 *  - Nodes are copied before their MACs are computed, and kept: the disk is not read a second time.
 *  - The commit that writes a record writes its bucket, its group and the root.
 * Skip it unless you ask what somebody can do who writes to the disk and has no key. What he still
 * can: put back a whole older store while no server runs (nothing outside the disk remembers).
 *
 * The root, under "\1table" in meta; a MAC of zeros: nothing was ever listed below
 *   offset  bytes
 *   0       8      config generation
 *   8       8      version of the commit that wrote it
 *   16      512    MACs of the 32 groups
 *   528     32     HMAC-SHA256 over 'r', zero, zero and all before
 *
 * A group, under "\1table/g" and its number (2 bytes)
 *   0       512    MACs of its 32 buckets
 *
 * A bucket, under "\1table/b" and its number (2 bytes): that of a name is a hash of it
 *   0       1      TABLE_LOST, or 0
 *   then for each record
 *   0       1      kind of its database
 *   1       2      k
 *   3       k      key
 *   3+k     16     the begin of the record's tag, which covers its version
 *
 * A MAC is the begin of HMAC-SHA256 over 'g' or 'b', the number (2 bytes) and the node's bytes. */
#define TABLE_FAN 32                    /* 3 nodes of 512 bytes a write, with 10,000 records */
#define TABLE_BUCKETS (TABLE_FAN * TABLE_FAN)   /* of 64 records each, with 65,536 */
#define TABLE_MAC 16                    /* nobody makes one without the key: 2^-128 a try */
#define TABLE_ROOT (16 + TABLE_FAN * TABLE_MAC)
#define TABLE_BUCKET_MAX (1u << 20)     /* 2,000 of the longest names */
#define TABLE_NEWS_MAX (512u << 10)     /* names for 10,000 changes; more, and a worker rebuilds */
#define TABLE_LOST 1
#define TABLE_KEY "\1table"
#define TABLE_SAY_MS 10000              /* a store that was set back is said once in so long */

struct table_mac {
	uint8_t b[TABLE_MAC];
};

struct table_bucket {
	struct table_mac mac;   /* of `bytes`; zeros: they are empty */
	struct buf bytes;       /* owned; verified */
};

/* What one thread knows of the table, and the names whose entries changed while it looked. */
struct table {
	bool known;             /* the root was verified, in the transaction `txn` */
	size_t txn;             /* LMDB's id of it */
	uint64_t floor;         /* a root of an older config generation was put back */
	uint64_t config, version;
	uint8_t seal[32];       /* the HMAC of the root that `group` was taken from */
	struct table_mac group[TABLE_FAN];      /* as the root has them */
	struct table_mac have[TABLE_FAN];       /* of the groups that `want` was taken from */
	struct table_mac want[TABLE_BUCKETS];   /* as the groups have them */
	struct table_bucket bucket[TABLE_BUCKETS];
	struct buf copy;        /* owned; the key and the bytes of the record that was judged last */
	bool follows;           /* the news are kept */
	uint64_t base;          /* the config generation since which they are kept */
	struct buf news;        /* owned; entries without their tags */
};

struct table_entry {
	struct slice name;      /* kind, length and key; borrowed from the bucket, as `mac` */
	const char *mac;
};

static void
table_forget(struct table *t)
{
	for (unsigned i = 0; i < TABLE_BUCKETS; i++)
		buf_free(&t->bucket[i].bytes);
	buf_free(&t->news);
	buf_free(&t->copy);
	memset(t, 0, sizeof *t);
	t->news.max = TABLE_NEWS_MAX;
	t->copy.max = STORE_KEY_MAX + STORE_BATCH_MAX;
}

static struct slice
table_key(uint8_t out[16], char level, unsigned i)
{
	size_t n = sizeof TABLE_KEY - 1;

	memcpy(out, TABLE_KEY, n);
	if (level == 'r')
		return (struct slice){(char *)out, n};
	out[n] = '/';
	out[n + 1] = (uint8_t)level;
	store_be16(out + n + 2, (uint16_t)i);
	return (struct slice){(char *)out, n + 4};
}

static void
table_hmac(char level, unsigned i, const void *p, size_t n, uint8_t out[32])
{
	uint8_t place[3] = {(uint8_t)level, (uint8_t)(i >> 8), (uint8_t)i};

	sign_mac(&store_keys_of(store.keys)->table, (struct slice[]){{(char *)place, sizeof place}, {p, n}}, 2, out);
}

/* Takes the next entry off `rest`. False: malformed, or `rest` is empty. */
static bool
table_next(struct slice *rest, struct table_entry *e)
{
	size_t n;

	if (rest->n < 3 + TABLE_MAC || (n = 3 + (size_t)load_be16(rest->p + 1)) > rest->n - TABLE_MAC)
		return false;
	e->name = (struct slice){rest->p, n};
	e->mac = rest->p + n;
	*rest = (struct slice){rest->p + n + TABLE_MAC, rest->n - n - TABLE_MAC};
	return true;
}

/* The entries of a bucket. */
static struct slice
table_entries(const struct buf *bytes)
{
	return bytes->n == 0 ? SLICE("") : (struct slice){bytes->p + 1, bytes->n - 1};
}

static bool
table_lookup(const struct buf *bytes, struct slice name, struct table_entry *e)
{
	struct slice rest = table_entries(bytes);

	while (table_next(&rest, e))
		if (slice_eq(e->name, name))
			return true;
	return false;
}

/* Adds to the news each name of `a` that `b` lists with another tag, or not at all. */
static void
table_tell(struct table *t, const struct buf *a, const struct buf *b)
{
	struct slice rest = table_entries(a);
	struct table_entry e, other;

	while (t->follows && table_next(&rest, &e))
		if (!table_lookup(b, e.name, &other) || memcmp(e.mac, other.mac, TABLE_MAC) != 0)
			buf_addv(&t->news, e.name);
}

/* Copies a node, behind `out`. DAMAGED: it is not the one that `mac` stands for. */
static enum store_err
table_read(MDB_txn *txn, char level, unsigned i, const struct table_mac *mac, struct buf *out)
{
	static const struct table_mac none;
	uint8_t key[16], h[32];
	struct slice v;
	enum store_err err;

	if (memcmp(mac, &none, sizeof none) == 0)
		return STORE_OK;
	if ((err = store_raw_get(txn, DB_META, table_key(key, level, i), &v)) != STORE_OK)
		return err == STORE_ABSENT ? STORE_DAMAGED : err;
	if (!buf_addv(out, v))
		return v.n > out->max ? STORE_DAMAGED : STORE_MEMORY;
	table_hmac(level, i, out->p, out->n, h);
	return ct_eq(h, mac, TABLE_MAC) ? STORE_OK : STORE_DAMAGED;
}

/* Section store: were its files moved away or replaced? What is open shows nobody's newest then, and LMDB,
 * whose numbers of transactions are in the lock file, may take a root of before for it. */
static bool store_moved(void);

/* A root older than one that was seen: it was put back on the disk. */
static enum store_err
table_set_back(const struct table *t, uint64_t config)
{
	static _Atomic int64_t said;
	int64_t now = clock_read(CLOCK_MONOTONIC);

	if (config >= t->floor)
		return STORE_OK;
	if (store_moved())
		return STORE_IO;
	if (now >= said) {
		said = now + TABLE_SAY_MS;
		log_line("ev=store_set_back config=%llu newest=%llu", (unsigned long long)config,
		    (unsigned long long)t->floor);
	}
	atomic_store(table_newest, UINT64_MAX); /* until a restart: commands write on what was put back */
	return STORE_DAMAGED;
}

/* Before a transaction begins: what it shows cannot be older than what somebody saw before. */
static void
table_begin(struct table *t)
{
	t->floor = table_newest != NULL ? atomic_load(table_newest) : 0;
}

/* Follows the root into this transaction. DAMAGED: it is not the root that was written last. */
static enum store_err
table_sync(struct table *t, MDB_txn *txn)
{
	uint8_t key[16], root[TABLE_ROOT + 32], h[32];
	struct slice v;
	enum store_err err;
	bool other;

	if (t->known && t->txn == mdb_txn_id(txn))
		return STORE_OK;
	if ((err = store_raw_get(txn, DB_META, table_key(key, 'r', 0), &v)) != STORE_OK || v.n != sizeof root) {
		t->known = false;
		return err == STORE_OK || err == STORE_ABSENT ? STORE_DAMAGED : err;
	}
	memcpy(root, v.p, sizeof root);
	other = memcmp(t->seal, root + TABLE_ROOT, sizeof t->seal) != 0;
	if (!t->known || other) {
		t->known = false;
		table_hmac('r', 0, root, TABLE_ROOT, h);
		if (!ct_eq(h, root + TABLE_ROOT, sizeof h))
			return STORE_DAMAGED;
		if (table_newest != NULL && other && load_be64(root) <= t->config)
			t->floor = UINT64_MAX;  /* another root of the same generation */
		t->config = load_be64(root);
		t->version = load_be64(root + 8);
		memcpy(t->group, root + 16, sizeof t->group);
		memcpy(t->seal, h, sizeof t->seal);
	}
	if ((err = table_set_back(t, t->config)) != STORE_OK) {
		t->known = false;
		return err;
	}
	for (uint64_t was = t->floor; table_newest != NULL && was < t->config;)
		if (atomic_compare_exchange_weak(table_newest, &was, t->config))
			break;
	t->txn = mdb_txn_id(txn);
	t->known = true;
	return STORE_OK;
}

/* Follows one bucket, and tells what changed in it. DAMAGED: it is not as it was written. */
static enum store_err
table_bucket(struct table *t, MDB_txn *txn, unsigned i)
{
	struct table_bucket *b = &t->bucket[i];
	unsigned g = i / TABLE_FAN;
	struct table_mac *want = t->want + g * TABLE_FAN;
	size_t size = TABLE_FAN * sizeof *want;
	struct buf node = {.max = size}, now;
	enum store_err err;

	if (memcmp(&t->group[g], &t->have[g], TABLE_MAC) != 0) {
		err = table_read(txn, 'g', g, &t->group[g], &node);
		/* If the group is not as it was written, no MAC of its buckets is known: ones fit no bucket. */
		memset(want, node.n == 0 && err == STORE_OK ? 0 : 0xff, size);
		if (err == STORE_OK && node.n == size)
			memcpy(want, node.p, size);
		buf_free(&node);
		if (err != STORE_OK && err != STORE_DAMAGED)
			return err;
		t->have[g] = t->group[g];
	}
	if (memcmp(&b->mac, &t->want[i], TABLE_MAC) == 0)
		return STORE_OK;
	buf_init(&now, TABLE_BUCKET_MAX);
	err = table_read(txn, 'b', i, &t->want[i], &now);
	if (err != STORE_OK) {
		buf_free(&now);
		if (err != STORE_DAMAGED)
			return err;
	}
	table_tell(t, &now, &b->bytes);
	table_tell(t, &b->bytes, &now);
	buf_free(&b->bytes);
	b->bytes = now;
	memset(&b->mac, 0, sizeof b->mac);
	if (err == STORE_OK)
		b->mac = t->want[i];
	return err;
}

/* The name by which a record is listed; its bucket follows from it. */
static unsigned
table_name(uint8_t out[3 + STORE_KEY_MAX], char kind, struct slice key, struct slice *name)
{
	uint32_t h = 2166136261u;       /* FNV-1a, as text_hash */

	out[0] = (uint8_t)kind;
	store_be16(out + 1, (uint16_t)key.n);
	memcpy(out + 3, key.p, key.n);
	*name = (struct slice){(char *)out, 3 + key.n};
	for (size_t i = 0; i < name->n; i++)
		h = (h ^ out[i]) * 16777619u;
	return (h ^ h >> 16) % TABLE_BUCKETS;
}

/* *mac: what the record's tag begins with, alive until the next call. ABSENT: there is no such record.
 * DAMAGED: nobody knows. */
static enum store_err
table_find(struct table *t, MDB_txn *txn, char kind, struct slice key, const char **mac)
{
	uint8_t place[3 + STORE_KEY_MAX];
	struct table_entry e;
	struct slice name;
	unsigned i = table_name(place, kind, key, &name);
	enum store_err err;

	if ((err = table_sync(t, txn)) != STORE_OK || (err = table_bucket(t, txn, i)) != STORE_OK)
		return err;
	if (table_lookup(&t->bucket[i].bytes, name, &e)) {
		*mac = e.mac;
		return STORE_OK;
	}
	return t->bucket[i].bytes.n != 0 && t->bucket[i].bytes.p[0] == TABLE_LOST ? STORE_DAMAGED
	    : STORE_ABSENT;
}

/* Puts a node, and computes its MAC. */
static enum store_err
table_write(MDB_txn *txn, char level, unsigned i, struct slice body, struct table_mac *mac)
{
	uint8_t key[16], h[32];

	table_hmac(level, i, body.p, body.n, h);
	memcpy(mac, h, sizeof *mac);
	return store_raw_put(txn, DB_META, table_key(key, level, i), body);
}

/* Lists a record with the begin of its tag, or with NULL no longer, in a write transaction that
 * table_sync has seen. table_finish must follow. */
static enum store_err
table_set(struct table *t, MDB_txn *txn, char kind, struct slice key, const void *mac)
{
	uint8_t place[3 + STORE_KEY_MAX];
	struct slice name, rest;
	unsigned i = table_name(place, kind, key, &name), g = i / TABLE_FAN;
	struct table_bucket *b = &t->bucket[i];
	struct table_entry e;
	struct buf now;
	enum store_err err = table_bucket(t, txn, i);
	char lost = err == STORE_DAMAGED || (b->bytes.n != 0 && b->bytes.p[0] == TABLE_LOST)
	    ? TABLE_LOST : 0;

	if (err != STORE_OK && err != STORE_DAMAGED)
		return err;
	buf_init(&now, TABLE_BUCKET_MAX);
	buf_add(&now, &lost, 1);
	for (rest = table_entries(&b->bytes); table_next(&rest, &e);)
		if (!slice_eq(e.name, name))
			buf_add(&now, e.name.p, e.name.n + TABLE_MAC);
	if (mac != NULL && buf_addv(&now, name))
		buf_add(&now, mac, TABLE_MAC);
	memset(&b->mac, 0, sizeof b->mac);
	buf_free(&b->bytes);
	if (!buf_ok(&now)) {
		buf_free(&now);
		return STORE_FULL;
	}
	b->bytes = now;
	if ((err = table_write(txn, 'b', i, buf_slice(&now), &t->want[i])) != STORE_OK)
		return err;
	b->mac = t->want[i];
	err = table_write(txn, 'g', g, (struct slice){(char *)&t->want[g * TABLE_FAN],
	    TABLE_FAN * sizeof *t->want}, &t->group[g]);
	t->have[g] = t->group[g];
	return err;
}

/* Puts the root. */
static enum store_err
table_finish(struct table *t, MDB_txn *txn, uint64_t config, uint64_t version)
{
	uint8_t key[16], root[TABLE_ROOT + 32];

	store_be64(root, config);
	store_be64(root + 8, version);
	memcpy(root + 16, t->group, sizeof t->group);
	table_hmac('r', 0, root, TABLE_ROOT, root + TABLE_ROOT);
	return store_raw_put(txn, DB_META, table_key(key, 'r', 0), (struct slice){(char *)root, sizeof root});
}

/* ---- store -----------------------------------------------------------------
 * Reading and writing records, for what commands and workers share. Invariants:
 *  - One read transaction a process, renewed and reset, never held across a wait.
 *  - A record is used if its own tag fits and the table lists it; both are read in one transaction.
 *  - Writers first take flock(writer.lock), tried without waiting: LMDB's own mutex cannot be
 *    waited for with a deadline, and a writer stopped by kill -STOP would hang everybody behind it.
 *    The kernel drops the lock of the dead; LMDB's robust mutex mends what they left.
 *  - A write transaction begins, writes and commits in one call on one thread; all its bytes were
 *    prepared before. The commit syncs: what it reported is on the disk.
 *  - The file reaches at least STORE_RESERVE beyond the last page in use, with blocks allocated: so
 *    a record that asked for room can be replaced although the disk is full (see store_reserve).
 * Left out on purpose: a defence against a disk whose B-tree pages, not records, were forged: LMDB
 * trusts those. Skip it unless you ask what a kill leaves behind, or what a full disk does. */

/* What the loop's thread knows of the table, and what the thread that commits does. */
static struct table store_seen, store_written;

/* -- reading */

/* Ends the snapshot that reads share, and the life of its records' slices. lua_step calls it after
 * each resume. */
static void
store_read_reset(void)
{
	if (store.reading)
		mdb_txn_reset(store.reader);
	store.reading = false;
}

/* below, with opening: for an environment that LMDB gave up */
static enum store_err store_reopen(void);

/* Takes the snapshot that reads share, unless it is there. */
static enum store_err
store_read_begin(void)
{
	int rc = 0;

	if (store.failed && store.inflight == 0)
		store_reopen();
	if (store.env == NULL)
		return STORE_LOCKED;
	if (store.failed)
		return STORE_IO;
	if (store.reading)
		return STORE_OK;
	table_begin(&store_seen);
	if (store.reader != NULL && (rc = mdb_txn_renew(store.reader)) != 0) {
		mdb_txn_abort(store.reader);
		store.reader = NULL;
	}
	if (store.reader == NULL &&
	    (rc = mdb_txn_begin(store.env, NULL, MDB_RDONLY, &store.reader)) != 0)
		store.reader = NULL;
	store.reading = rc == 0;
	return store_err_of(rc);
}

/* The entry at *k or behind it, or the next one if that has the key `after`.
 * A cursor is opened for each step: none is left open where Lua may raise. */
static int
store_seek(MDB_txn *txn, MDB_dbi dbi, struct slice after, MDB_val *k, MDB_val *v)
{
	MDB_cursor *cur;
	int rc = mdb_cursor_open(txn, dbi, &cur);

	if (rc != 0)
		return rc;
	rc = mdb_cursor_get(cur, k, v, MDB_SET_RANGE);
	if (rc == 0 && after.n != 0 && slice_eq(store_slice(*k), after))
		rc = mdb_cursor_get(cur, k, v, MDB_NEXT);
	mdb_cursor_close(cur);
	return rc;
}

/* Is the value (p NULL: there is none) under a key what we wrote there last? If not, r->why
 * is "older", "unknown" (the table does not list it), "gone" or "unsure"; NULL: its own tag does not fit. It is copied first: who
 * writes to the disk could change it between the look at its tag and its use. Without the store's key
 * nobody knows, and then every record passes. The slices of *r live until the next call. */
static enum store_err
store_judge(struct table *t, MDB_txn *txn, enum store_db db, struct slice key, struct slice v,
    struct store_record *r)
{
	const struct store_keys *k = store_keys_of(store.keys);
	enum store_err err = STORE_ABSENT, listed;
	const char *mac;

	r->why = NULL;
	if (!store_key_ok(key))
		return STORE_DAMAGED;   /* none of ours */
	buf_recycle(&t->copy, STORE_COPY_KEPT);
	if (!buf_addv(&t->copy, key) || !buf_addv(&t->copy, v))
		return v.n > STORE_BATCH_MAX ? STORE_DAMAGED : STORE_MEMORY;
	key.p = t->copy.p;
	if (v.p != NULL) {
		v.p = t->copy.p + key.n;
		err = store_record_check(k, db, key, v, r);
	}
	if (k == NULL || store_dbs[db].kind == 0 || err == STORE_DAMAGED)
		return err;
	listed = table_find(t, txn, store_dbs[db].kind, key, &mac);
	if (listed == STORE_ABSENT && err == STORE_ABSENT)
		return STORE_ABSENT;
	if (listed == STORE_OK && err == STORE_OK && ct_eq(mac, v.p + v.n - STORE_TAG, TABLE_MAC))
		return STORE_OK;
	r->why = listed == STORE_ABSENT ? "unknown" : listed != STORE_OK ? "unsure" : err == STORE_OK ? "older" : "gone";
	return listed == STORE_OK || listed == STORE_ABSENT ? STORE_DAMAGED : listed;
}

/* The record under a key. Its slices live until the next read. */
static enum store_err
store_read(enum store_db db, struct slice key, struct store_record *r)
{
	struct slice v;
	enum store_err err;

	if (!store_key_ok(key))
		return STORE_ABSENT;
	if ((err = store_read_begin()) != STORE_OK ||
	    ((err = store_raw_get(store.reader, db, key, &v)) != STORE_OK && err != STORE_ABSENT))
		return err;
	return store_judge(&store_seen, store.reader, db, key, v, r);
}

/* The first key after `after` (or, with `after` empty, from `prefix` on) that begins with `prefix`.
 * STORE_DAMAGED still gives the key. */
static enum store_err
store_read_next(enum store_db db, struct slice prefix, struct slice after, struct slice *key,
    struct store_record *r)
{
	struct slice from = after.n != 0 ? after : prefix.n != 0 ? prefix : SLICE(" ");
	MDB_val k = store_val(from), v;
	enum store_err err;

	if (from.n > STORE_KEY_LMDB)
		return STORE_ABSENT;
	if ((err = store_read_begin()) != STORE_OK ||
	    (err = store_err_of(store_seek(store.reader, store.dbi[db], after, &k, &v))) != STORE_OK)
		return err == STORE_DAMAGED ? STORE_IO : err;   /* there is no key to go on from */
	*key = store_slice(k);
	if (key->n < prefix.n || memcmp(key->p, prefix.p, prefix.n) != 0)
		return STORE_ABSENT;
	err = store_judge(&store_seen, store.reader, db, *key, store_slice(v), r);
	if (store_key_ok(*key) && err != STORE_MEMORY)
		key->p = store_seen.copy.p;
	return err;
}

/* -- secrets: sealing and opening one */

/* Seals or opens `data` in place: the secret `name` of record `key`. */
static void
store_seal_run(enum store_db db, struct slice key, struct slice name, const void *nonce, void *data,
    size_t n, uint8_t tag[16], bool encrypt)
{
	uint8_t aad[STORE_AAD_MAX];
	struct slice place = {(char *)aad, store_aad(aad, db, key, name)};

	store_aead(store_keys_of(store.keys)->seal, nonce, data, n, place, tag, encrypt);
}

/* Writes the s->text.n bytes of a sealed secret to `out`; zeros if it does not open. */
static enum store_err
store_unseal(enum store_db db, struct slice key, const struct store_seal *s, char *out)
{
	uint8_t tag[16];

	if (store.keys == NULL)
		return STORE_LOCKED;
	memcpy(out, s->text.p, s->text.n);
	store_seal_run(db, key, s->name, s->nonce.p, out, s->text.n, tag, false);
	if (ct_eq(tag, s->tag.p, sizeof tag))
		return STORE_OK;
	wipe(out, s->text.n);
	return STORE_DAMAGED;
}

/* -- counters and change lists */

static enum store_err
store_counters_get(MDB_txn *txn, struct store_counters *c)
{
	struct slice v;
	enum store_err err = store_raw_get(txn, DB_META, STORE_K_COUNTERS, &v);

	if (err != STORE_OK || v.n != 32)
		return err == STORE_OK || err == STORE_ABSENT ? STORE_DAMAGED : err;
	*c = (struct store_counters){load_be64(v.p), load_be64(v.p + 8), load_be64(v.p + 16),
	    load_be64(v.p + 24)};
	return STORE_OK;
}

/* The environment is given up then, and opened anew when nothing is in flight. Any thread. */
static bool
store_moved(void)
{
	static const char *const names[] = {"store/data.mdb", "store/lock.mdb"};
	char path[PATH_MAX];
	struct stat st;
	size_t i = 0;

	while (i < COUNT(names) && store_path(path, store.home, names[i]) && stat(path, &st) == 0 &&
	    st.st_ino == store.file[i].st_ino && st.st_dev == store.file[i].st_dev)
		i++;
	if (i < COUNT(names) && !atomic_exchange(&store.failed, true))
		log_line("ev=store_replaced");
	return i < COUNT(names);
}

/* The two generations, asked for at each request. They are read anew only after a commit, which
 * LMDB's meta page tells without a transaction. A server whose files somebody moved away would see no
 * commit any more: commands write to those that took their place. So it looks for them at times. */
static bool
store_generations(uint64_t *config, uint64_t *state)
{
	MDB_envinfo info;
	int64_t now = clock_read(CLOCK_MONOTONIC);

	if (store.env != NULL && !store.failed && table_newest != NULL && now >= store.look_at) {
		store.look_at = now + STORE_REPLACED_MS;
		store_moved();
	}
	if (store.failed || store.env == NULL || store.counted == 0 ||
	    mdb_env_info(store.env, &info) != 0 ||
	    info.me_last_txnid != store.counted) {
		store.counted = 0;
		if (store_read_begin() != STORE_OK ||
		    store_counters_get(store.reader, &store.counters) != STORE_OK)
			return false;
		if (store.keys != NULL) {
			if (table_sync(&store_seen, store.reader) != STORE_OK)
				return false;
			store.counters.config = store_seen.config;
		}
		store.counted = mdb_txn_id(store.reader);
	}
	*config = store.counters.config;
	*state = store.counters.state;
	return true;
}

/* Follows the whole table. *known: store_seen.news has all names whose records changed since config
 * generation `since`, which was the newest when this was last called; else the caller begins anew. */
static enum store_err
store_follow(uint64_t since, bool *known)
{
	struct table *t = &store_seen;
	enum store_err err;

	if (store.keys == NULL)
		return STORE_LOCKED;
	if ((err = store_read_begin()) != STORE_OK || (err = table_sync(t, store.reader)) != STORE_OK)
		return err;
	for (unsigned i = 0; i < TABLE_BUCKETS; i++)
		if ((err = table_bucket(t, store.reader, i)) != STORE_OK && err != STORE_DAMAGED)
			return err;
	*known = t->follows && since == t->base && buf_ok(&t->news);
	t->follows = true;
	t->base = t->config;
	return STORE_OK;
}

/* -- placeholders: drawn from a key and a label. A shape has random parts, "{N}" or "{N:class}" of
 * N letters. They are drawn here, and not in Lua, because an agent that comes holds those of ten
 * thousand credentials. */

#define STORE_ALNUM "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

/* `n` letters and digits that look random: the same for the same label, unknown without the key.
 * Bytes from 248 on are rejected, so that all 62 are equally likely. */
static enum store_err
store_derive(struct slice label, char *out, size_t n)
{
	const struct store_keys *k = store_keys_of(store.keys);
	uint8_t block[32], ctr[4];
	uint32_t round = 0;

	if (k == NULL)
		return STORE_LOCKED;
	for (size_t o = 0; o < n; round++) {
		store_be32(ctr, round);
		sign_mac(&k->derive, (struct slice[]){{(char *)ctr, sizeof ctr}, label}, 2, block);
		for (size_t i = 0; i < sizeof block && o < n; i++)
			if (block[i] < 248)
				out[o++] = STORE_ALNUM[block[i] % 62];
	}
	wipe(block, sizeof block);
	return STORE_OK;
}

#define STORE_SHAPE_MAX 256     /* as long as the longest real key: records.lua */

static const struct { const char *class, *letters; } store_alphabets[] = {
	{"", STORE_ALNUM},
	{"hex", "0123456789abcdef"},
	{"digit", "0123456789"},
	{"alpha", "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"},
	{"upper", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"},
	{"url", STORE_ALNUM "-_"},
};

/* The begin of a shape: one random part, or one byte that stands for itself. */
struct store_part {
	size_t n;               /* its bytes in the shape */
	size_t count;           /* letters to draw */
	const char *letters;    /* static; to draw from; NULL: the byte stands for itself */
};

static struct store_part
store_part(struct slice s)
{
	size_t at = 1, count = 0, class;

	for (; at < s.n && at <= 3 && ascii_digit(s.p[at]); at++)
		count = count * 10 + (size_t)(s.p[at] - '0');
	at += at < s.n && s.p[at] == ':';
	for (class = at; at < s.n && s.p[at] != '}';)
		at++;
	for (size_t i = 0; s.p[0] == '{' && at < s.n && i < COUNT(store_alphabets); i++)
		if (slice_eq(slice_of(store_alphabets[i].class), (struct slice){s.p + class, at - class}))
			return (struct store_part){at + 1, count, store_alphabets[i].letters};
	return (struct store_part){1, 0, NULL};
}

/* Writes the shape with its random parts drawn for the label. *stop: where the longest part ends,
 * which tells the placeholder from all others. */
static enum store_err
store_placeholder(struct slice shape, struct slice label, char out[STORE_SHAPE_MAX], size_t *n, size_t *stop)
{
	char random[STORE_SHAPE_MAX];
	size_t all = 0, used = 0, longest = 0;
	struct store_part part;
	enum store_err err;

	*n = *stop = 0;
	for (size_t at = 0; at < shape.n; at += part.n) {
		part = store_part((struct slice){shape.p + at, shape.n - at});
		all += part.count;
		*n += part.letters != NULL ? part.count : 1;
	}
	if (*n > STORE_SHAPE_MAX)
		return STORE_INVALID;
	if ((err = store_derive(label, random, all)) != STORE_OK)
		return err;
	for (size_t at = 0, to = 0; at < shape.n; at += part.n) {
		part = store_part((struct slice){shape.p + at, shape.n - at});
		if (part.letters == NULL)
			out[to++] = shape.p[at];
		for (size_t i = 0, k = part.count != 0 ? strlen(part.letters) : 0; i < part.count; i++)
			out[to++] = part.letters[(unsigned char)random[used++] % k];
		if (part.count > longest) {
			longest = part.count;
			*stop = to;
		}
	}
	return STORE_OK;
}

/* -- batches: all that one commit writes, prepared and sealed before any lock is taken. */
enum store_op_kind { OP_PUT, OP_DEL, OP_CHECK };

struct store_op {
	enum store_op_kind kind;
	enum store_db db;
	bool keep;              /* secrets of the old record that this one does not name stay */
	bool fresh;             /* another record of the same name: it gets an id of its own */
	bool moves;             /* the epoch is drawn anew */
	uint64_t version;       /* of the record there, or a conflict; 0: none may be there; or STORE_ANY */
	uint32_t room;          /* bytes: a later record of this size is to fit, however full the disk */
	unsigned nseals;
	size_t key, key_n, plain, plain_n, seals, seals_n;      /* offsets into the batch's bytes */
};

struct store_batch {
	struct buf ops;         /* owned; n of struct store_op */
	struct store_op *op;    /* borrowed from `ops` */
	size_t n;
	struct buf bytes;       /* owned; keys, plain texts, sealed secrets */
	struct buf record;      /* owned; the record being put together */
	bool moves[BUMP_STATE + 1];     /* something that moves this generation was written */
	uint64_t version;       /* after the commit: that of the records it wrote */
};

/* For op->version: the record may have any version, or not be there. */
#define STORE_ANY UINT64_MAX

static struct store_batch *
store_batch_new(void)
{
	struct store_batch *b = malloc(sizeof *b);

	if (b != NULL)
		*b = (struct store_batch){.ops.max = STORE_OPS_MAX * sizeof *b->op, .bytes.max = STORE_BATCH_MAX,
		    .record.max = STORE_BATCH_MAX};
	return b;
}

static void
store_batch_free(struct store_batch *b)
{
	if (b == NULL)
		return;
	buf_free(&b->ops);
	buf_free(&b->bytes);
	buf_free(&b->record);
	free(b);
}

static struct slice
store_op_key(const struct store_batch *b, const struct store_op *op)
{
	return (struct slice){b->bytes.p + op->key, op->key_n};
}

static struct slice
store_op_seals(const struct store_batch *b, const struct store_op *op)
{
	return (struct slice){b->bytes.p + op->seals, op->seals_n};
}

static enum store_err
store_batch_op(struct store_batch *b, enum store_op_kind kind, enum store_db db, struct slice key,
    uint64_t version)
{
	struct store_op op = {.kind = kind, .db = db, .version = version, .key = b->bytes.n,
	    .key_n = key.n};

	/* what somebody else put under another kind of key can be removed */
	if ((!store_key_ok(key) && (kind != OP_DEL || key.n == 0 || key.n > STORE_KEY_LMDB ||
	    (unsigned char)key.p[0] < 0x20)) ||
	    !buf_addv(&b->bytes, key))
		return STORE_INVALID;
	op.plain = op.seals = b->bytes.n;
	if (!buf_add(&b->ops, &op, sizeof op))
		return STORE_INVALID;
	b->op = (struct store_op *)(void *)b->ops.p;
	b->n++;
	return STORE_OK;
}

/* Later calls of store_batch_secret and store_batch_drop belong to this record. */
static enum store_err
store_batch_put(struct store_batch *b, enum store_db db, struct slice key, struct slice plain,
    uint64_t version, bool keep, uint32_t room)
{
	enum store_err err;
	struct store_op *op;

	if (plain.n > STORE_PLAIN_MAX)
		return STORE_INVALID;
	if ((err = store_batch_op(b, OP_PUT, db, key, version)) != STORE_OK)
		return err;
	op = &b->op[b->n - 1];
	op->keep = keep;
	op->room = room;
	if (!buf_add(&b->bytes, plain.p, plain.n))
		return STORE_INVALID;
	op->plain_n = plain.n;
	op->seals = b->bytes.n;
	return STORE_OK;
}

static void
store_batch_name(struct store_batch *b, struct slice name, uint32_t n)
{
	uint8_t len = (uint8_t)name.n, be[4];

	store_be32(be, n);
	buf_add(&b->bytes, &len, 1);
	buf_addv(&b->bytes, name);
	buf_add(&b->bytes, be, 4);
}

/* Seals a secret at once, under a random nonce, where its plain bytes were copied to. A credential
 * that gets another secret moves its epoch. */
static enum store_err
store_batch_secret(struct store_batch *b, struct slice name, const void *p, size_t n)
{
	struct store_op *op = &b->op[b->n - 1];
	struct slice key = store_op_key(b, op);
	uint8_t nonce[12], tag[16] = {0};
	struct secret *old = NULL;
	struct store_record r;
	struct store_seal s;
	size_t at;

	assert(b->n != 0 && op->kind == OP_PUT);
	if (store.keys == NULL)
		return STORE_LOCKED;
	if (n > STORE_SECRET_MAX || name.n > STORE_SECRET_NAME_MAX ||
	    op->nseals == STORE_SECRETS_MAX || store_seal_find(store_op_seals(b, op), name, &s))
		return STORE_INVALID;
	if (!rand_bytes(nonce, sizeof nonce))
		return STORE_IO;
	if (op->db == DB_CREDENTIAL && !op->moves)      /* is it the secret that the record has? */
		op->moves = store_read(op->db, key, &r) != STORE_OK || !store_seal_find(r.seals, name, &s) ||
		    s.text.n != n || (n != 0 && ((old = secret_new(n)) == NULL ||
		    store_unseal(op->db, key, &s, old->p) != STORE_OK || !ct_eq(old->p, p, n)));
	secret_unref(old);
	store_batch_name(b, name, (uint32_t)n);
	buf_add(&b->bytes, nonce, sizeof nonce);
	at = b->bytes.n;
	buf_add(&b->bytes, p, n);
	if (!buf_add(&b->bytes, tag, sizeof tag))
		return STORE_INVALID;
	store_seal_run(op->db, store_op_key(b, op), name, nonce, b->bytes.p + at, n,
	    (uint8_t *)b->bytes.p + at + n, true);
	op->nseals++;
	op->seals_n = b->bytes.n - op->seals;
	return STORE_OK;
}

/* With `keep`: this secret of the old record is removed all the same. */
static enum store_err
store_batch_drop(struct store_batch *b, struct slice name)
{
	struct store_op *op = &b->op[b->n - 1];

	assert(b->n != 0 && op->kind == OP_PUT);
	if (name.n > STORE_SECRET_NAME_MAX)
		return STORE_INVALID;
	store_batch_name(b, name, STORE_DROP);
	op->moves = true;
	op->seals_n = b->bytes.n - op->seals;
	return buf_ok(&b->bytes) ? STORE_OK : STORE_INVALID;
}

/* -- the lock of writers */
enum store_phase { COMMIT_WAITING, COMMIT_BEGUN, COMMIT_CANCELLED };

/* Polls, because a process that waits in flock sees neither the deadline (monotonic ms) nor a
 * cancellation. `phase`: a commit's, or NULL. */
static bool
store_lock_wait(int fd, int64_t deadline, const _Atomic int *phase)
{
	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if ((phase != NULL && *phase == COMMIT_CANCELLED) ||
		    clock_read(CLOCK_MONOTONIC) >= deadline)
			return false;
		nanosleep(&(struct timespec){.tv_nsec = STORE_LOCK_POLL_NS}, NULL);
	}
	return true;
}

/* -- room on the disk */

/* The number of free pages. LMDB lists them in its database 0 (FREE_DBI), each value a count and
 * then pages, and shows it to readers only. Walked only when the map's end is near. */
static size_t
store_free_pages(void)
{
	MDB_cursor *cur;
	MDB_txn *txn;
	MDB_val k, v;
	size_t sum = 0, n;

	if (mdb_txn_begin(store.env, NULL, MDB_RDONLY, &txn) != 0)
		return 0;
	if (mdb_cursor_open(txn, 0, &cur) == 0) {
		while (mdb_cursor_get(cur, &k, &v, MDB_NEXT) == 0) {
			memcpy(&n, v.mv_data, sizeof n);
			sum += n;
		}
		mdb_cursor_close(cur);
	}
	mdb_txn_abort(txn);
	return sum;
}

/* Extends the file so that blocks are allocated up to `want`. A file system that cannot allocate
 * ahead is only extended: the promise of room is then as good as its free space. */
static bool
store_allocate(off_t have, off_t want)
{
	int rc;

	do
		rc = fallocate(store.fd, 0, have, want - have);
	while (rc < 0 && errno == EINTR);
	if (rc < 0 && (errno == EOPNOTSUPP || errno == ENOSYS))
		rc = ftruncate(store.fd, want);
	return rc == 0;
}

/* LMDB copies pages before it changes them, so even replacing a record needs new ones. Before a
 * commit there must be room for what it may need (bytes of records, pages of the tree touched), for
 * the reserve, and for what is promised to records with `room`. Only a batch that uses its promise,
 * or that only removes, may eat into the reserve (store_check_ops). */
static enum store_err
store_reserve(size_t bytes, size_t touched, uint64_t promised)
{
	MDB_envinfo info;
	struct stat st;
	size_t used, step, need;
	int rc = mdb_env_info(store.env, &info);

	if (rc != 0)
		return store_err_of(rc);
	used = (info.me_last_pgno + 1) * (size_t)store.psize;
	if (touched > info.me_last_pgno)
		touched = info.me_last_pgno;
	need = bytes + (touched + 16) * store.psize + STORE_RESERVE +
	    (size_t)(promised < STORE_MAP_SIZE ? promised : STORE_MAP_SIZE);
	if (used + need > info.me_mapsize)
		return info.me_mapsize - used + store_free_pages() * store.psize >= need
		    ? STORE_OK : STORE_FULL;
	if (fstat(store.fd, &st) != 0)
		return STORE_IO;
	if ((size_t)st.st_size >= used + need)
		return STORE_OK;
	step = used + need + STORE_RESERVE <= info.me_mapsize ? STORE_RESERVE : 0;
	if (store_allocate(st.st_size, (off_t)(used + need + step)) ||
	    store_allocate(st.st_size, (off_t)(used + need)))
		return STORE_OK;
	return store_err_of(errno);
}

/* -- committing */

/* The record under the operation's key. Neither OK nor ABSENT: a record that is not to be trusted.
 * ABSENT too where none lies there and its bucket does not know whether one should: it may be made.
 * The slices of *r live until the next write. */
static enum store_err
store_old(MDB_txn *txn, const struct store_batch *b, const struct store_op *op,
    struct store_record *r)
{
	struct slice v, key = store_op_key(b, op);
	enum store_err err = store_raw_get(txn, op->db, key, &v);
	const char *mac;

	if (!store_key_ok(key))
		return err == STORE_OK ? STORE_DAMAGED : err;
	if (err == STORE_ABSENT && store_dbs[op->db].kind != 0 &&
	    table_find(&store_written, txn, store_dbs[op->db].kind, key, &mac) == STORE_DAMAGED)
		return STORE_ABSENT;
	return err != STORE_OK && err != STORE_ABSENT ? err :
	    store_judge(&store_written, txn, op->db, key, v, r);
}

/* Writes the record's bytes to b->record. old: whom it replaces, or NULL. Of the secrets of that one,
 * with `keep` those stay that the operation does not name. */
static enum store_err
store_compose(struct store_batch *b, const struct store_op *op, const struct store_record *old)
{
	struct slice ours = store_op_seals(b, op), rest = op->keep && old != NULL ? old->seals : SLICE("");
	struct store_record r = {.version = b->version, .room = op->room};
	struct store_seal s, other;
	uint8_t head[STORE_HEAD] = {0}, tag[STORE_TAG], epoch[8];
	bool fresh = op->fresh || old == NULL, moves;
	unsigned n = 0;

	if (old != NULL) {
		memcpy(r.id, old->id, STORE_ID);
		r.epoch = old->epoch;
	}
	buf_clear(&b->record);
	buf_add(&b->record, head, sizeof head);
	buf_add(&b->record, b->bytes.p + op->plain, op->plain_n);
	while (ours.n != 0 && store_seal_next(&ours, &s))
		if (!s.drop && ++n != 0)
			buf_addv(&b->record, s.whole);
	while (rest.n != 0 && store_seal_next(&rest, &s))
		if (!store_seal_find(store_op_seals(b, op), s.name, &other) && ++n != 0)
			buf_addv(&b->record, s.whole);
	if (!buf_ok(&b->record) || n > STORE_SECRETS_MAX)
		return STORE_INVALID;
	r.nseals = n;
	moves = fresh || op->moves || (!op->keep && old->nseals > n);
	if ((fresh && !rand_bytes(r.id, STORE_ID)) || (moves && !rand_bytes(epoch, sizeof epoch)))
		return STORE_IO;
	if (moves)
		r.epoch = load_be64(epoch) >> (64 - STORE_EPOCH_BITS);
	store_record_head((uint8_t *)b->record.p, &r, op->plain_n);
	store_tag(store_keys_of(store.keys), op->db, store_op_key(b, op), buf_slice(&b->record),
	    tag);
	return buf_add(&b->record, tag, sizeof tag) ? STORE_OK : STORE_MEMORY;
}

/* What a promise of `room` bytes may cost on the disk. */
static uint64_t
store_room_cost(uint32_t room)
{
	return room == 0 ? 0 : (uint64_t)room + STORE_ROOM_COST;
}

/* Applies one operation, and keeps account of the room that is promised and of what changed. */
static enum store_err
store_apply_op(MDB_txn *txn, struct store_batch *b, const struct store_op *op,
    struct store_counters *c)
{
	struct store_record r;
	struct slice key = store_op_key(b, op), value = {NULL, 0};
	enum store_err err, old;
	uint64_t was;

	if (op->kind == OP_CHECK)
		return STORE_OK;
	old = store_old(txn, b, op, &r);
	was = old == STORE_OK ? store_room_cost(r.room) : 0;
	c->room = c->room > was ? c->room - was : 0;
	if (op->kind == OP_PUT) {
		if ((err = store_compose(b, op, old == STORE_OK ? &r : NULL)) != STORE_OK)
			return err;
		c->room += store_room_cost(op->room);
		value = buf_slice(&b->record);
	}
	err = store_raw_put(txn, op->db, key, value);
	if (err == STORE_ABSENT && old == STORE_ABSENT)
		return STORE_OK;
	if (err != STORE_OK && err != STORE_ABSENT)
		return err;
	b->moves[store_dbs[op->db].bump] = true;
	if (store_dbs[op->db].kind == 0 || !store_key_ok(key))
		return STORE_OK;
	return table_set(&store_written, txn, store_dbs[op->db].kind, key,
	    op->kind == OP_DEL ? NULL : b->record.p + b->record.n - STORE_TAG);
}

static enum store_err
store_counters_put(MDB_txn *txn, const struct store_counters *c)
{
	char v[32];

	store_be64(v, c->config);
	store_be64(v + 8, c->state);
	store_be64(v + 16, c->version);
	store_be64(v + 24, c->room);
	return store_raw_put(txn, DB_META, STORE_K_COUNTERS, (struct slice){v, sizeof v});
}

/* Checks every precondition, then the room. A batch that puts only records that were promised room
 * is entitled to the reserve, and so is one that only removes. */
static enum store_err
store_check_ops(MDB_txn *txn, const struct store_batch *b, const struct store_counters *c)
{
	bool entitled = true, versioned;
	size_t bytes = 0, puts = 0, size;
	uint64_t promised = c->room;
	enum store_err err;

	for (size_t i = 0; i < b->n; i++) {
		const struct store_op *op = &b->op[i];
		struct store_record r;
		enum store_err old;

		if (store_dbs[op->db].kind != 0 &&
		    (err = table_sync(&store_written, txn)) != STORE_OK)
			return err;
		old = store_old(txn, b, op, &r);
		/* Preconditions are about what was there before the batch. A damaged record meets none, but may
		 * be replaced or removed without one: that is how it is mended. */
		versioned = op->version != STORE_ANY;
		if (versioned && ((old == STORE_ABSENT) != (op->version == 0) || (old == STORE_OK && r.version != op->version)))
			return STORE_CONFLICT;
		if (old != STORE_OK && old != STORE_ABSENT && (versioned || (op->kind == OP_PUT && op->keep)))
			return old;
		if (op->kind != OP_PUT)
			continue;
		puts += store_dbs[op->db].kind != 0 ? 3 : 1;    /* bucket and group are records too */
		size = STORE_HEAD + op->plain_n + op->seals_n + STORE_TAG + op->key_n;
		/* half-full leaves, own pages */
		bytes += size < store.psize / 2 ? 2 * size : size + store.psize;
		promised += store_room_cost(op->room);
		entitled = entitled && old == STORE_OK && r.room != 0;
	}
	if (puts == 0 || entitled)
		return STORE_OK;
	return store_reserve(bytes, 4 * puts, promised);
}

static enum store_err
store_apply(MDB_txn *txn, struct store_batch *b)
{
	struct table *t = &store_written;
	struct store_counters c;
	enum store_err err;

	memset(b->moves, 0, sizeof b->moves);
	if ((err = store_counters_get(txn, &c)) != STORE_OK ||
	    (err = store_check_ops(txn, b, &c)) != STORE_OK)
		return err;
	/* Nobody has authenticated the counters: two records of one version would be taken for one. */
	b->version = c.version = (c.version > t->version ? c.version : t->version) + 1;
	for (size_t i = 0; i < b->n; i++)
		if ((err = store_apply_op(txn, b, &b->op[i], &c)) != STORE_OK)
			return err;
	c.state += b->moves[BUMP_STATE];
	if (b->moves[BUMP_CONFIG]) {
		c.config = t->config + 1;
		if ((err = table_finish(t, txn, c.config, c.version)) != STORE_OK)
			return err;
	}
	return store_counters_put(txn, &c);
}

/* Commits and syncs. After a failed write of its meta page LMDB answers every further transaction
 * with MDB_PANIC: one is tried at once, so that the environment is opened anew. */
static enum store_err
store_txn_commit(MDB_txn *txn)
{
	int rc = mdb_txn_commit(txn);

	if (rc == 0)
		return STORE_OK;
	if (mdb_txn_begin(store.env, NULL, 0, &txn) == 0)
		mdb_txn_abort(txn);
	else
		store.failed = true;
	return store_err_of(rc);
}

/* Applies a batch, all or nothing, and syncs. The caller holds the writers' lock. */
static enum store_err
store_transact(struct store_batch *b)
{
	MDB_txn *txn;
	enum store_err err;
	int rc;

	if (store_moved())      /* another would take what is written here for what it wrote */
		return STORE_IO;
	table_begin(&store_written);
	store_written.known = false;    /* a transaction that was given up had the same id */
	if ((rc = mdb_txn_begin(store.env, NULL, 0, &txn)) != 0) {
		store.failed = store.failed || rc == MDB_PANIC;
		return store_err_of(rc);
	}
	if ((err = store_apply(txn, b)) == STORE_OK)
		err = store_txn_commit(txn);
	else
		mdb_txn_abort(txn);
	if (err != STORE_OK)
		table_forget(&store_written);   /* it may know what was given up */
	return err;
}

/* One commit by the helper thread. */
struct store_commit {
	struct job job;
	struct store_batch *batch;      /* owned */
	int64_t deadline;               /* monotonic ms */
	/* enum store_phase; BEGUN and CANCELLED exclude each other */
	_Atomic int phase;
	enum store_err err;             /* once done */
	struct wait *wait;              /* borrowed: whose owner frees this once it is done; NULL: none waits */
};

static void
store_commit_free(struct store_commit *c)
{
	store_batch_free(c->batch);
	free(c);
}

static void
store_commit_job(struct job *j)
{
	struct store_commit *c = OWNER(j, struct store_commit, job);
	int waiting = COMMIT_WAITING;

	c->err = STORE_TIMEOUT;
	if (!store_lock_wait(store.lock_fd, c->deadline, &c->phase))
		return;
	if (atomic_compare_exchange_strong(&c->phase, &waiting, COMMIT_BEGUN))
		c->err = store_transact(c->batch);
	flock(store.lock_fd, LOCK_UN);
}

static void
store_commit_done(struct defer *d)
{
	struct store_commit *c = OWNER(d, struct store_commit, job.defer);

	store.inflight--;
	if (c->wait != NULL)
		wait_end(c->wait);
	else
		store_commit_free(c);
}

/* Hands a batch, which it owns from here on, to the helper thread. The wait ends later, in the loop thread. */
static struct store_commit *
store_commit_start(struct store_batch *b, int64_t deadline, struct wait *wait)
{
	struct store_commit *c = calloc(1, sizeof *c);

	if (c == NULL) {
		store_batch_free(b);
		return NULL;
	}
	*c = (struct store_commit){.job = {.lane = JOB_STORE, .run = store_commit_job, .done = store_commit_done},
	    .batch = b, .deadline = deadline, .wait = wait};
	store.inflight++;
	job_submit(&c->job);
	return c;
}

/* True: the commit will never be applied. False: the commit has begun, and may be on the disk any
 * moment. */
static bool
store_commit_cancel(struct store_commit *c)
{
	int waiting = COMMIT_WAITING;

	return atomic_compare_exchange_strong(&c->phase, &waiting, COMMIT_CANCELLED) ||
	    waiting == COMMIT_CANCELLED;
}

/* Commits in the calling thread, for commands. Ctrl-Z takes effect once the lock is given back, so
 * that a stopped command holds up no other writer; for kill -STOP, which cannot be blocked, the
 * others have deadlines. */
static enum store_err
store_commit_now(struct store_batch *b, int64_t deadline)
{
	struct store_commit c = {.batch = b, .deadline = deadline};
	sigset_t stops, old;

	if (store.failed)
		store_reopen();
	if (store.env == NULL || store.keys == NULL)
		return STORE_LOCKED;
	store_read_reset();
	sigemptyset(&stops);
	sigaddset(&stops, SIGTSTP);
	sigaddset(&stops, SIGTTIN);
	sigaddset(&stops, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &stops, &old);
	store_commit_job(&c.job);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return c.err;
}

/* -- opening */

/* Copies the key of the key file into kek. */
static enum store_err
store_key_read(const char *home, uint8_t kek[32])
{
	char path[PATH_MAX], text[80];
	struct stat st;
	enum store_err err = STORE_OK;
	ssize_t n = -1;
	int fd = store_path(path, home, "key")
	    ? open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK) : -1;

	if (fd < 0 && errno == ENOENT)
		return store_fail(STORE_KEY_ABSENT, "key", NULL, -1);
	if (fd < 0 || fstat(fd, &st) != 0)
		err = store_fail_rc(errno, "key");
	else if (st.st_uid != geteuid())
		err = store_fail(STORE_NOT_OWNER, "key", NULL, st.st_uid);
	else if (!S_ISREG(st.st_mode) || (st.st_mode & 07777 & ~(mode_t)0600) != 0)
		err = store_fail(STORE_KEY_MODE, "key", NULL, st.st_mode & 07777);
	else if ((n = read(fd, text, sizeof text)) < 0)
		err = store_fail_rc(errno, "key");
	else if ((n != 64 && (n != 65 || text[64] != '\n')) ||
	    !hex_decode(kek, (struct slice){text, 64}))
		err = store_fail(STORE_KEY_MODE, "key", NULL, -1);
	wipe(text, sizeof text);
	if (fd >= 0)
		close(fd);
	return err;
}

/* Makes the key file, whose name the caller syncs. link, not rename: a key that another process made meanwhile is not
 * overwritten. */
static enum store_err
store_key_make(const char *home, uint8_t kek[32])
{
	char path[PATH_MAX], tmp[PATH_MAX], text[65];
	enum store_err err = STORE_OK;
	int fd = -1;

	if (!store_path(path, home, "key") || !store_path(tmp, home, ".key.new") ||
	    !rand_bytes(kek, 32))
		return STORE_IO;
	hex_encode(text, kek, 32);
	text[64] = '\n';
	unlink(tmp);
	errno = ENOSPC;         /* what a write that is cut short means, and does not say */
	if ((fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) < 0 ||
	    fchmod(fd, 0600) != 0 || write(fd, text, sizeof text) != sizeof text || fsync(fd) != 0 ||
	    link(tmp, path) != 0)
		err = store_fail_rc(errno, "key");
	wipe(text, sizeof text);
	if (fd >= 0)
		close(fd);
	unlink(tmp);
	return err;
}

/* Frees the slots of dead readers: each pins the pages that it could see. */
static void
store_check_readers(void)
{
	mdb_reader_check(store.env, NULL);
}

static void
store_close(void)
{
	if (store.reader != NULL)
		mdb_txn_abort(store.reader);
	store.reader = NULL;
	store.reading = false;
	if (store.env != NULL) {
		mdb_env_close(store.env);
		close(store.lock_fd);
	}
	secret_drop(&store.keys);
	table_forget(&store_seen);
	table_forget(&store_written);
	store.env = NULL;
	store.failed = false;
	store.counted = 0;
}

/* Opens the environment and the writers' lock, and reads no record. */
static enum store_err
store_env_open(const char *home)
{
	char path[PATH_MAX], lock[PATH_MAX], writers[PATH_MAX];
	MDB_stat st;
	int rc;

	if (!store_path(path, home, "store") || !store_path(lock, home, "store/lock.mdb") || !store_path(writers, home, "store/writer.lock"))
		return STORE_INVALID;
	if ((store.lock_fd = open(writers, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0)
		return store_fail_rc(errno, "store/writer.lock");
	if ((rc = mdb_env_create(&store.env)) == 0 &&
	    (rc = mdb_env_set_mapsize(store.env, STORE_MAP_SIZE)) == 0 &&
	    (rc = mdb_env_set_maxreaders(store.env, STORE_READERS)) == 0 &&
	    (rc = mdb_env_set_maxdbs(store.env, STORE_DBS)) == 0 &&
	    (rc = mdb_env_open(store.env, path, MDB_NOTLS, 0600)) == 0 &&
	    (rc = mdb_env_get_fd(store.env, &store.fd)) == 0 &&
	    (rc = mdb_env_stat(store.env, &st)) == 0 &&
	    (rc = fstat(store.fd, &store.file[0]) != 0 || stat(lock, &store.file[1]) != 0 ? EIO : 0) == 0) {
		store.psize = st.ms_psize;
		snprintf(store.home, sizeof store.home, "%s", home);
		return STORE_OK;
	}
	mdb_env_close(store.env);
	store.env = NULL;
	close(store.lock_fd);
	return store_fail_rc(rc, "store/data.mdb");
}

/* LMDB reads the file through a map: a file cut short would end the process with SIGBUS later on. A
 * few pages may be missing rightly, taken and given back by the commit before a kill: holes stand
 * in for them. fallocate never shortens what another process has just extended. */
static enum store_err
store_check_length(void)
{
	MDB_envinfo info;
	struct stat st;
	size_t want;

	if (mdb_env_info(store.env, &info) != 0 || fstat(store.fd, &st) != 0)
		return STORE_IO;
	want = (info.me_last_pgno + 1) * (size_t)store.psize;
	if ((size_t)st.st_size >= want || (want - (size_t)st.st_size <= STORE_RESERVE &&
	    fallocate(store.fd, 0, st.st_size, (off_t)want - st.st_size) == 0))
		return STORE_OK;
	return store_fail(STORE_DAMAGED, "store/data.mdb", "is cut short", -1);
}

/* Handles are opened in a read transaction, which does not wait for a stopped writer. A store of an
 * earlier version lacks the newer databases: only then a second transaction makes them. */
static enum store_err
store_dbis_open(void)
{
	MDB_txn *txn;
	int rc = MDB_NOTFOUND;

	for (unsigned make = 0; rc == MDB_NOTFOUND && make <= MDB_CREATE; make += MDB_CREATE) {
		if ((rc = mdb_txn_begin(store.env, NULL, make != 0 ? 0 : MDB_RDONLY, &txn)) != 0)
			break;
		for (int i = 0; i < STORE_DBS && rc == 0; i++)
			rc = mdb_dbi_open(txn, store_dbs[i].name, i < DB_USER ? 0 : make, &store.dbi[i]);
		if (rc == 0)
			rc = mdb_txn_commit(txn);
		else
			mdb_txn_abort(txn);
	}
	return rc == 0 ? STORE_OK : store_fail_rc(rc, "store");
}

/* Unwraps the data key with HOME/key. */
static enum store_err
store_unlock_keys(const char *home, struct slice blob, struct secret **keys)
{
	uint8_t kek[32];
	enum store_err err;

	if ((*keys = secret_new(sizeof(struct store_keys))) == NULL)
		return STORE_MEMORY;
	if ((err = store_key_read(home, kek)) == STORE_OK) {
		err = store_datakey_unwrap(kek, blob, (struct store_keys *)(void *)(*keys)->p);
		if (err != STORE_OK)
			store_fail(err, "store", err == STORE_NEWER ? "a newer version sealed its data key" :
			    "has a damaged data key", -1);
	}
	wipe(kek, sizeof kek);
	if (err != STORE_OK)
		secret_drop(keys);
	return err;
}

/* Is it a store, whole and of a format that we know? *datakey: the wrapped data key; borrowed from the transaction. */
static enum store_err
store_check_format(MDB_txn *txn, struct slice *datakey)
{
	struct store_counters c;
	struct slice v;

	if (store_raw_get(txn, DB_META, STORE_K_FORMAT, &v) != STORE_OK || v.n != 4 ||
	    load_be32(v.p) == 0)
		return store_fail(STORE_DAMAGED, "store", "does not say its format", -1);
	if (load_be32(v.p) > STORE_FORMAT)
		return store_fail(STORE_NEWER, "store", NULL, (long)load_be32(v.p));
	if (load_be32(v.p) < STORE_FORMAT)
		return store_fail(STORE_INVALID, "store", "is of a format that was used before the first release and is "
		    "read no longer: move it away, run init, and add again what it held", -1);
	if (store_counters_get(txn, &c) != STORE_OK ||
	    store_raw_get(txn, DB_META, STORE_K_DATAKEY, datakey) != STORE_OK)
		return store_fail(STORE_DAMAGED, "store", "has lost its counters or data key", -1);
	return STORE_OK;
}

/* After fork, once a process; an open store is closed first. KEYLESS opens a store whose key is not
 * at hand, or whose table was changed: names, hosts and times can be read, unverified; nothing can be
 * unsealed or written. */
static enum store_err
store_open(const char *home, enum store_how how)
{
	char path[PATH_MAX];
	struct slice blob = {NULL, 0};
	struct stat st;
	enum store_err err;

	store_close();
	snprintf(store.home, sizeof store.home, "%s", home);
	if (!store_path(path, home, "store/data.mdb"))
		return STORE_INVALID;
	if (stat(path, &st) != 0)
		return errno == ENOENT || errno == ENOTDIR ? STORE_ABSENT
		    : store_fail_rc(errno, "store/data.mdb");
	if (st.st_uid != geteuid())
		return store_fail(STORE_NOT_OWNER, "store/data.mdb", NULL, st.st_uid);
	if ((err = store_env_open(home)) == STORE_OK && (err = store_check_length()) == STORE_OK &&
	    (err = store_dbis_open()) == STORE_OK && (err = store_read_begin()) == STORE_OK &&
	    (err = store_check_format(store.reader, &blob)) == STORE_OK)
		err = store_unlock_keys(home, blob, &store.keys);
	if (err == STORE_OK && (err = store_read_begin()) == STORE_OK) {
		if ((err = table_sync(&store_seen, store.reader)) == STORE_DAMAGED)
			store_fail(err, "store",
			    "was changed on the disk: its table of records is not the one that was written last", -1);
		if (err == STORE_DAMAGED && how == STORE_KEYLESS) {
			secret_drop(&store.keys);
			err = STORE_OK;
		}
	}
	store_read_reset();
	if (how == STORE_KEYLESS && (err == STORE_WRONG_KEY || err == STORE_KEY_ABSENT ||
	    err == STORE_KEY_MODE))
		err = STORE_OK;
	if (err != STORE_OK)
		store_close();
	return err;
}

static bool
store_open_serve(const char *home)
{
	enum store_err err = store_open(home, STORE_WITH_KEY);

	if (err != STORE_OK)
		log_line("ev=worker_start err=%s place=%s why=\"%s\"", store_codes[err],
		    store_fault.place != NULL ? store_fault.place : "", store_fault.why != NULL ? store_fault.why : "");
	return err == STORE_OK;
}

/* Opens the environment anew, which LMDB refuses to use after a failed write of its meta page, or whose
 * files were replaced. The keys stay. */
static enum store_err
store_reopen(void)
{
	struct secret *keys;
	char home[PATH_MAX];
	enum store_err err;

	if (clock_read(CLOCK_MONOTONIC) < store.reopen_at || !store_path(home, store.home, "store/data.mdb") ||
	    access(home, F_OK) != 0)    /* LMDB would make an empty one */
		return STORE_IO;
	store.reopen_at = clock_read(CLOCK_MONOTONIC) + STORE_REOPEN_MS;
	keys = store.keys != NULL ? secret_ref(store.keys) : NULL;
	memcpy(home, store.home, sizeof home);
	store_close();
	if ((err = store_env_open(home)) == STORE_OK && ((err = store_check_length()) != STORE_OK ||
	    (err = store_dbis_open()) != STORE_OK))
		store_close();
	log_line("ev=store_reopen err=%s", store_codes[err]);
	store.keys = keys;
	store.failed = err != STORE_OK;
	return err;
}

/* ---- seal ------------------------------------------------------------------
 * A secret that an API hands out goes to the agent as a sealed text: the secret itself, encrypted, which
 * this box alone can open, for that agent and credential. Nothing of it is kept. lua/seal.lua says which
 * members of an answer are sealed and where a sealed text opens; here are the text, the values that rows
 * point at, and the answer that is put together anew.
 *
 * Invariants. Each text has a key of its own, so the nonce may be zero. What a text says of itself is
 * authenticated when it is opened, not before. Every failure to open is the same NULL. An answer of which
 * something must be sealed goes on only whole and readable. Skip it after the layout unless you ask what
 * of an answer an agent gets to see.
 *
 *   [kept] SEAL_MARK base64url of:
 *   offset  bytes
 *   0       1      1, the format
 *   1       1      enum seal_shape
 *   2       2      length of what was kept before the mark
 *   4       1      0: made with the only data key that this store has had
 *   5       24     random
 *   29      16     id of the agent
 *   45      16     id of the credential
 *   61      4      end, Unix s
 *   65      4      row (lua/seal.lua)
 *   69      n      ciphertext
 *   69+n    16     tag (AEAD_CHACHA20_POLY1305, RFC 8439 2.8)
 * The key is HMAC-SHA256(K_seal, the random bytes). The additional data is these 69 bytes, the epochs of
 * agent and credential, which are not in the text, and the SHA-256 of what was kept. */
#define SEAL_MARK SLICE("Sp5eaL") /* by chance in one of 10^10 places */
#define SEAL_HEAD 69            /* a multiple of 3: its base64 ends with a character */
#define SEAL_RANDOM 24
#define SEAL_TAG 16
#define SEAL_CODE_MIN ((4 * (SEAL_HEAD + SEAL_TAG) + 2) / 3)
#define SEAL_KEPT_MAX 65535     /* two bytes */
#define SEAL_PREFIX_MAX 64      /* bytes */
#define SEAL_BODY_MAX (1024 * 1024)
#define SEAL_TURN 20000         /* tokens of JSON, or pairs, that are read at once: the shortest take 80 ns each */
#define SEAL_VALUE_MAX (64 * 1024) /* bytes of a secret; no head takes more */
#define SEAL_RELATIVE_MAX 315360000 /* s: ten years; a larger number is a time */
#define SEAL_MS_MIN 100000000000 /* and from here on it counts milliseconds (the year 5138 in s) */

/* SEAL_JWT keeps header and claims (RFC 7519 3), and seals the bytes of the signature. */
enum seal_shape { SEAL_OPAQUE, SEAL_JWT };

struct sealed {
	struct slice text;      /* borrowed, as the next two: all of it */
	struct slice kept, code; /* before the mark, behind it */
	uint8_t head[SEAL_HEAD];
};

/* What becomes of an answer. */
struct seal {
	uint8_t head[SEAL_HEAD]; /* of every text: the two ids */
	uint8_t epochs[16];     /* the agent's and the credential's */
	int64_t max, none;      /* s: the longest time, and that of a row that tells none */
	int64_t no_later;       /* Unix s: the end of the text that was opened */
	struct subst *rows;     /* owned; a row is a member, its placeholder the prefix that is kept */
	unsigned made;
	char note[192];         /* for the record, and the message: why the answer does not go on; empty: it does */
	struct filter_fault fault;
	struct buf text, fields; /* owned: the sealed texts; values of fields with one in them */
	bool well, form;        /* the body is what its type says; it is read as pairs */
	struct subst_turns turns;
	struct subst_spots spots;
};

static void
seal_free(struct seal *s)
{
	if (s == NULL)
		return;
	subst_free(s->rows);
	buf_free(&s->text);
	buf_free(&s->fields);
	free(s);
}

/* -- the text */

/* The next text behind *at, which moves behind it. False: there is none. */
static bool
seal_next(struct slice in, size_t *at, struct sealed *t)
{
	const char *p;

	while (*at < in.n && (p = memmem(in.p + *at, in.n - *at, SEAL_MARK.p, SEAL_MARK.n)) != NULL) {
		size_t before = (size_t)(p - in.p), end = before + SEAL_MARK.n, kept;

		*at = end;
		if (in.n - end < SEAL_CODE_MIN || b64_decode(t->head, SEAL_HEAD, (struct slice){in.p + end, SEAL_HEAD / 3 * 4}, true) < 0 ||
		    t->head[0] != 1 || t->head[1] > SEAL_JWT || t->head[4] != 0 || (kept = load_be16(t->head + 2)) > before)
			continue;
		/* behind a head alone: a text may be nothing but marks, and each would be counted to its end */
		while (end < in.n && b64_url[b64_digit(in.p[end])] == in.p[end])
			end++;
		t->code = (struct slice){in.p + *at, end - *at};
		if (t->code.n < SEAL_CODE_MIN)
			continue;
		t->kept = (struct slice){p - kept, kept};
		t->text = (struct slice){p - kept, kept + end - before};
		*at = end;
		return true;
	}
	return false;
}

/* Is the value of this pair a sealed text, and nothing else to any server? */
static bool
seal_alone(struct slice pair)
{
	struct sealed t;
	size_t at = 0, n = 0;

	slice_cut(&pair, '=');
	while (n < pair.n && pct_plain(pair.p[n], PCT_URI))
		n++;
	return n == pair.n && seal_next(pair, &at, &t);
}

/* Encrypts or decrypts n bytes. Writes the tag also when it decrypts: the caller compares. */
static void
seal_aead(const void *head, const uint8_t epochs[16], struct slice kept, void *data, size_t n,
    uint8_t tag[SEAL_TAG], bool encrypt)
{
	static const uint8_t nonce[12];
	uint8_t aad[SEAL_HEAD + 16 + 32], key[32];

	memcpy(aad, head, SEAL_HEAD);
	memcpy(aad + SEAL_HEAD, epochs, 16);
	tls_sha256(kept.p, kept.n, aad + SEAL_HEAD + 16);
	sign_mac(&store_keys_of(store.keys)->texts, &(struct slice){(char *)aad + 5, SEAL_RANDOM}, 1, key);
	store_aead(key, nonce, data, n, (struct slice){(char *)aad, sizeof aad}, tag, encrypt);
	wipe(key, sizeof key);
}

/* Adds a text to s->text. False: no memory, or no randomness. */
static bool
seal_put(struct seal *s, uint32_t row, int64_t end, enum seal_shape shape, struct slice kept, struct slice value)
{
	struct buf b = {.max = SEAL_HEAD + value.n + SEAL_TAG};
	uint8_t *head = s->head, tag[SEAL_TAG];
	bool ok = rand_bytes(head + 5, SEAL_RANDOM) && kept.n <= SEAL_KEPT_MAX;

	head[0] = 1;
	head[1] = (uint8_t)shape;
	store_be16(head + 2, (uint16_t)kept.n);
	store_be32(head + 61, (uint32_t)end);
	store_be32(head + 65, row);
	if (buf_add(&b, head, SEAL_HEAD) && buf_addv(&b, value)) {
		seal_aead(head, s->epochs, kept, b.p + SEAL_HEAD, value.n, tag, true);
		buf_add(&b, tag, SEAL_TAG);
	}
	ok = ok && buf_ok(&b) && buf_join(&s->text, (struct slice[]){kept, SEAL_MARK}, 2) && buf_base64(&s->text, buf_slice(&b), true);
	buf_free(&b);
	return ok;
}

/* The secret, of one reference. NULL: the text does not open. */
static struct secret *
seal_open(const struct sealed *t, const uint8_t epochs[16])
{
	struct buf raw = {.max = t->code.n, .secret = true}, out = {.max = t->text.n, .secret = true};
	struct slice body = {NULL, 0};
	uint8_t tag[SEAL_TAG];
	ssize_t n = -1;

	if (store.keys != NULL && buf_reserve(&raw, t->code.n))
		n = b64_decode(raw.p, t->code.n, t->code, true);
	if (n >= SEAL_HEAD + SEAL_TAG) {
		body = (struct slice){raw.p + SEAL_HEAD, (size_t)n - SEAL_HEAD - SEAL_TAG};
		seal_aead(raw.p, epochs, t->kept, raw.p + SEAL_HEAD, body.n, tag, false);
	}
	if (body.p == NULL || !ct_eq(tag, body.p + body.n, SEAL_TAG))
		out.bad = true;
	else if (t->head[1] == SEAL_OPAQUE)
		buf_addv(&out, body);
	else if (buf_addv(&out, t->kept))
		buf_base64(&out, body, true);
	buf_free(&raw);
	return buf_take_secret(&out);
}

/* Adds the text with "sealed" in the place of every sealed one. False: there is none. */
static bool
seal_hide(struct slice in, struct buf *out)
{
	struct sealed t;
	size_t from = 0, at = 0;

	while (seal_next(in, &at, &t)) {
		if (t.text.p > in.p + from)
			buf_add(out, in.p + from, (size_t)(t.text.p - in.p) - from);
		buf_adds(out, "sealed");
		from = at;
	}
	return from != 0 && buf_add(out, in.p + from, in.n - from);
}

/* Registered algorithms that sign (RFC 7518 3.1, RFC 8037, 8812, 9864), each as JSON has it: no string of JSON has a line's end. */
#define SEAL_SIGNS SLICE("\"HS256\"\n\"HS384\"\n\"HS512\"\n\"RS256\"\n\"RS384\"\n\"RS512\"\n\"ES256\"\n\"ES384\"\n\"ES512\"\n" \
	"\"PS256\"\n\"PS384\"\n\"PS512\"\n\"EdDSA\"\n\"ES256K\"\n\"Ed25519\"\n\"Ed448\"")

/* Is it a JWT (RFC 7519, RFC 7515 7.1) with such an algorithm and a signature of 32 bytes or more? Sets *kept to all
 * before the signature, whose bytes `sig` gets. The caller frees `sig`. */
static bool
seal_jwt(struct slice v, struct slice *kept, struct buf *sig)
{
	struct json_member alg = {.name = SLICE("alg")};
	struct slice rest = v;
	bool ok;

	buf_init(sig, v.n + 1);
	ok = buf_reserve(sig, v.n + 1);
	for (int part = 0; part < 3 && ok; part++) {
		ssize_t n = b64_decode(sig->p, sig->cap, part < 2 ? slice_cut(&rest, '.') : rest, true);

		sig->n = n > 0 ? (size_t)n : 0;
		ok = part == 2 ? n >= 32 : json_members(buf_slice(sig), &alg, part == 0) == JSON_OK &&
		    (part == 1 || (alg.value.type == JSON_STRING && slice_has(SEAL_SIGNS, alg.value.raw)));
	}
	*kept = (struct slice){v.p, v.n - rest.n};
	return ok && kept->n <= SEAL_KEPT_MAX;
}

/* Unix s; `told`: what the row's answer says of it: seconds from now on, a time as a number or by RFC 3339. */
static int64_t
seal_end(const struct seal *s, int64_t now, struct slice told)
{
	int64_t left = s->none, n = 0;
	struct tm tm = {0};
	double real = 0;
	char text[48];
	const char *p;

	if (json_number(told, &n, &real) == JSON_REAL)
		n = real > 0 && real < 1e15 ? (int64_t)real : 0;
	if (n > 0)
		left = n < SEAL_RELATIVE_MAX ? n : (n < SEAL_MS_MIN ? n : n / 1000) - now;
	else if (slice_cstr(told, text, sizeof text) && (p = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm)) != NULL) {
		while (*p == '.' || ascii_digit(*p))
			p++;
		if (strptime(p, "%z", &tm) != NULL) {
			n = tm.tm_gmtoff;
			left = timegm(&tm) - n - now;
		}
	}
	n = now + (left < s->max ? left : s->max);
	n = n < s->no_later ? n : s->no_later;
	return n < 0 ? 0 : n < UINT32_MAX ? n : UINT32_MAX;
}

/* -- the answer */

/* Notes why the answer does not go on: its client and the record are told. Always false. */
static bool
seal_fail(struct req *r, const char *why, struct slice member)
{
	struct buf b = {.p = r->seal->note, .cap = sizeof r->seal->note - 1, .max = sizeof r->seal->note - 1};

	buf_adds(&b, r->status / 100 == 2 ? "a secret was made and thrown away: the answer " : "the answer ");
	buf_adds(&b, why);
	while (member.n != 0) {
		buf_addv(&b, slice_cut(&member, '\0'));
		buf_add(&b, "/", member.n != 0);
	}
	return false;
}

static const struct filter_fault *
seal_fault(struct req *r)
{
	r->seal->fault = (struct filter_fault){502, "seal_failed", r->seal->note,
	    "the operator can refuse such calls: sallyport credential set NAME mint=refuse"};
	return r->tally.over ? scrub_fault(&r->tally) : &r->seal->fault;
}

static enum scrub_way
seal_begin(struct req *r, const struct http_head *h)
{
	uint64_t most = h->body == BODY_NONE ? 0 : h->body == BODY_LENGTH ? h->length : SEAL_BODY_MAX;

	r->answer.max = SEAL_BODY_MAX;
	if (h->status != 101 && most <= SEAL_BODY_MAX && req_count_answer(r, (size_t)most))
		return SCRUB_HELD;
	seal_fail(r, h->status == 101 ? "is an upgrade" : most > SEAL_BODY_MAX ? "is over 1 MiB" : "finds no room now", SLICE(""));
	return SCRUB_FAILS;
}

/* Notes the values of the body's members, as many as a turn may. False: there are more. */
static bool
seal_whole(struct req *r, const struct http_head *h)
{
	struct seal *s = r->seal;
	struct slice body = buf_slice(&r->answer);
	struct subst_run t = {.s = s->rows, .in = body, .spots = &s->spots, .turns = &s->turns};
	enum subst_kind kind = subst_kind_of(http_value(h, SLICE("content-type")));
	size_t mark = body.n > 3 && memcmp(body.p, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;     /* before UTF-8: some write it */
	bool json = body.n != 0 && subst_places(s->rows, 1u << PLACE_JSON), typed = kind == SUBST_JSON || kind == SUBST_LINES;

	s->spots.s = s->rows, s->turns.left = SEAL_TURN;
	if (!s->form) {
		s->well = json && (kind == SUBST_LINES ? subst_json_lines(&t) : subst_json_text(&t, PLACE_JSON, mark, body.n));
		if (s->turns.more)
			return false;
		if (s->well)
			return true;
		s->spots = (struct subst_spots){.s = s->rows};
		s->turns.at = 0, s->form = !typed;
	}
	if (s->form)
		subst_pairs(&t, PLACE_FORM);
	s->well = !json || s->spots.n != 0 || kind == SUBST_FORM || (h->status / 100 != 2 && !typed);
	return !s->turns.more;
}

/* The first of the rows that point there. */
static const struct subst_row *
seal_row(const struct subst_spots *c, size_t i)
{
	return &c->s->row[__builtin_ctzll(c->spot[i].rows)];
}

/* The bytes of the value that are replaced: none of null, which is no secret. */
static struct slice
seal_inside(const struct subst_spot *at)
{
	return at->place != PLACE_JSON ? at->value.raw : at->value.type == JSON_STRING ? json_inside(&at->value) : SLICE("");
}

/* Are the values such as can be sealed, and is there one of each group that a 2xx must have? */
static bool
seal_check(struct req *r, const struct subst_spots *c, bool must)
{
	uint64_t found = c->empty;

	if (c->over)
		return seal_fail(r, "has more than 64 values to seal", SLICE(""));
	for (size_t i = 0; i < c->n; i++) {
		const struct subst_row *row = seal_row(c, i);
		bool string = c->spot[i].place != PLACE_JSON || c->spot[i].value.type == JSON_STRING;

		if (!string && !row->locked && (row->to != 0 || c->spot[i].value.type != JSON_NULL))
			return seal_fail(r, "has what is no string as ", row->name);
		found |= string ? c->spot[i].rows : 0;
	}
	for (size_t k = 0; must && k < c->s->n; k++) {
		bool has = c->s->row[k].to == 0;

		for (size_t j = 0; j < c->s->n; j++)
			has |= c->s->row[j].to == c->s->row[k].to && (found >> j & 1) != 0;
		if (!has)
			return seal_fail(r, "has no ", c->s->row[k].name);
	}
	return true;
}

/* The value, of one reference. NULL: no memory. */
static struct secret *
seal_value(const struct subst_spot *at)
{
	struct buf b = {.max = at->value.raw.n + 1, .secret = true};

	if (buf_reserve(&b, b.max))
		b.n = at->place == PLACE_JSON ? json_unescape(b.p, &at->value) :
		    pct_decode(b.p, b.cap, at->value.raw, at->place == PLACE_FORM ? PCT_QUERY : PCT_NONE);
	return buf_take_secret(&b);
}

/* Seals one value: its text goes to s->text, and `all` gets what must not stand elsewhere. */
static bool
seal_one(struct req *r, const struct subst_spots *c, size_t i, struct scrub **all)
{
	struct seal *s = r->seal;
	const struct subst_row *row = seal_row(c, i);
	struct slice kept = row->placeholder, told = SLICE(""), value;
	size_t begin = s->text.n, skip = 0;
	const struct subst_spot *at = &c->spot[i];
	struct secret *secret = seal_value(at);
	struct buf sig = {0};
	bool ok;

	for (size_t k = 0; k < c->n; k++)
		if (seal_row(c, k)->locked && seal_row(c, k)->from == row->from)
			told = c->spot[k].value.type == JSON_NUMBER ? c->spot[k].value.raw : seal_inside(&c->spot[k]);
	if (secret == NULL)
		return false;
	value = secret_slice(secret);
	/* where the claims repeat what was attached, nothing of the text is kept */
	if (row->jwt && seal_jwt(value, &kept, &sig) && !scrub_in(r->back, kept)) {
		skip = kept.n;
		value = buf_slice(&sig);
	} else {
		kept = row->placeholder;
	}
	ok = value.n <= SEAL_VALUE_MAX && seal_put(s, (uint32_t)row->from, seal_end(s, clock_wall(), told),
	    skip != 0 ? SEAL_JWT : SEAL_OPAQUE, kept, value) &&
	    scrub_add(all, secret, skip, (struct slice){s->text.p + begin + skip, s->text.n - begin - skip}, SLICE(""), true);
	s->made += ok;
	buf_free(&sig);
	secret_unref(secret);
	return ok;
}

/* Puts the texts where the values stood: in the body, and in fields. `from`: where each begins in s->text. False:
 * no memory. */
static bool
seal_rewrite(struct seal *s, const struct subst_spots *c, const size_t *from, struct buf *body)
{
	struct buf out = {.max = body->n + s->text.n}, *b = &s->fields;
	size_t at = 0;

	buf_init(b, s->text.n + HTTP_HEAD_MAX);
	for (size_t i = 0; i < c->n; i++) {
		struct slice in = seal_inside(&c->spot[i]), part[3];
		struct http_field *f = c->spot[i].field;

		if (from[i + 1] == from[i] || (f != NULL && (in.p < f->value.p || in.p > f->value.p + f->value.n)))
			continue;       /* nothing to seal, or in a field that was replaced whole */
		part[1] = (struct slice){s->text.p + from[i], from[i + 1] - from[i]};
		if (f == NULL) {
			part[0] = (struct slice){body->p + at, (size_t)(in.p - body->p) - at};
			at = (size_t)(in.p + in.n - body->p);
			buf_join(&out, part, 2);
		} else {
			part[0] = (struct slice){f->value.p, (size_t)(in.p - f->value.p)};
			part[2] = (struct slice){in.p + in.n, f->value.n - in.n - part[0].n};
			buf_reserve(b, b->max - b->n);  /* all at once: it does not move */
			f->value = (struct slice){b->p + b->n, part[0].n + part[1].n + part[2].n};
			buf_join(b, part, 3);
		}
	}
	if (at != 0 && buf_add(&out, body->p + at, body->n - at)) {
		buf_free(body);
		*body = out;
	} else {
		buf_free(&out);
	}
	return buf_ok(b) && buf_ok(&out);
}

/* Seals the answer. Its head is searched for what was sealed and for what was attached, its body for the latter
 * where bodies are. False: it does not go on. */
static bool
seal_answer(struct req *r, struct http_head *h, int io)
{
	struct seal *s = r->seal;
	struct subst_spots *c = &s->spots;
	bool searched = r->scrub == SCRUB_TEXT || r->scrub == SCRUB_ALL, must = h->status / 100 == 2, ok;
	unsigned hits = r->tally.hits;
	size_t from[SUBST_ROWS_MAX + 1] = {0};
	int coding = http_find(h, SLICE("content-encoding"), 0);
	struct scrub *all = NULL, *back = r->back;
	const char *why = io != FLOW_DONE ? io == FLOW_DST_GONE ? "is over 1 MiB" : "is malformed, or ended early" :
	    clock_unset() ? "came while the clock is not set" : h->status == 206 ? "is a part of the whole" :
	    r->answer.n != 0 && coding >= 0 && !(slice_eq_nocase(h->field[coding].value, SLICE("identity")) &&
	    http_find(h, SLICE("content-encoding"), (size_t)coding + 1) < 0) ? "is encoded, though identity was asked for" :
	    !s->well ? "is no JSON" : NULL;

	if (why != NULL)
		return seal_fail(r, why, SLICE(""));
	for (struct http_field *f = h->field; f < h->field + h->nfields; f++) {
		struct slice value = slice_until(f->value, ';'), name = http_trim(slice_cut(&value, '='));

		subst_note(c, subst_rows(c->s, PLACE_HEADER, f->name), (struct json_token){.raw = f->value}, PLACE_HEADER, f);
		if (slice_eq_nocase(f->name, SLICE("set-cookie")))      /* RFC 6265 4.1.1 */
			subst_note(c, subst_rows(c->s, PLACE_COOKIE, name), (struct json_token){.raw = http_trim(value)}, PLACE_COOKIE, f);
	}
	if (!seal_check(r, c, must && !slice_eq(r->head.method, SLICE("HEAD"))))
		return false;
	ok = true;
	for (size_t i = 0; i < c->n && ok; i++) {
		ok = seal_row(c, i)->locked || seal_inside(&c->spot[i]).n == 0 || seal_one(r, c, i, &all);
		from[i + 1] = s->text.n;
	}
	if (all != NULL)
		all->sealed = (unsigned)all->n;
	ok = ok && seal_rewrite(s, c, from, &r->answer) && (!searched || scrub_join(&all, back)) &&
	    scrub_body(all, &r->answer, &r->tally) && (searched || scrub_join(&all, back)) &&
	    req_count_answer(r, r->answer.cap > r->answer_counted ? r->answer.cap : r->answer_counted);
	scrub_free(back);
	r->back = all;
	r->echoes = r->echoes || s->made != 0;
	for (struct http_field *f = h->field; f < h->field + h->nfields; f++)
		if (slice_eq_nocase(f->name, SLICE("trailer")) || ((s->made != 0 || r->tally.hits != hits) &&  /* it spoke of another text */
		    (scrub_seals(f->name, f->value) || slice_eq_nocase(f->name, SLICE("etag")))))
			f->mark = FIELD_DROPPED;
	return ok || seal_fail(r, "has a secret that is over 64 KiB, or too many, or there is no memory now", SLICE(""));
}

/* May a sealed text stand in the request? Its head is looked through once, and the plain text of Basic, and a body
 * that was read, up to 1 MiB. */
static bool
req_sealed(const struct req *r)
{
	bool found = r->body_read && r->body.n <= SEAL_BODY_MAX && slice_has(buf_slice(&r->body), SEAL_MARK);
	struct buf plain;

	/* by the character that is rare in a head: a fifth of what memmem takes */
	for (const char *p = r->bytes.p, *end = p + r->bytes.n; !found && end - p > 5 && (p = memchr(p + 5, 'L', (size_t)(end - p) - 5)) != NULL; p -= 4)
		found = memcmp(p - 5, SEAL_MARK.p, SEAL_MARK.n) == 0;
	for (const struct http_field *f = r->head.field; !found && f < r->head.field + r->head.nfields; f++) {
		if (f->own != NULL || !slice_eq_nocase(f->name, SLICE("authorization")))
			continue;
		found = http_basic(f->value, &plain) && slice_has(buf_slice(&plain), SEAL_MARK);
		buf_free(&plain);
	}
	return found;
}

/* ---- filter: mcp -----------------------------------------------------------
 * What an MCP server's answer may name: the lists of tools, resources, resource templates and prompts
 * (modelcontextprotocol.io, 2025-11-25 and 2026-07-28) lose what the caller may not use. An answer is
 * one JSON text (mcp_edit), or a stream of events whose data are JSON texts (the filter). Skip it
 * unless you ask what a client of the door can see.
 *
 * Invariants. A list stands in `result` of a message, alone or in a batch; every member that some reader
 * takes for one (json_spells, loosely) is a list, however often it comes. A tool goes on only if each
 * of its names may; one without a name only where nothing is taken from the list. What is not JSON,
 * or too long to be held, ends the answer. `cacheScope` is "private" afterwards: no cache may
 * show one caller's list to another. Every other byte stays. */
#define MCP_MESSAGE_MAX (4 * 1024 * 1024) /* bytes: a list of 10,000 tools has about as many */
#define MCP_ROWS_MAX (64 * 1024) /* bytes of one caller's patterns: scopes and tools of one gateway */

enum mcp_list { MCP_TOOLS, MCP_RESOURCES, MCP_TEMPLATES, MCP_PROMPTS, MCP_LISTS };

static const struct slice mcp_lists[MCP_LISTS] = {
    SLICE_INIT("tools"), SLICE_INIT("resources"), SLICE_INIT("resourceTemplates"), SLICE_INIT("prompts")};

/* What one caller may see: of tools, the first row that fits the name decides, else `rest`; of the others all or
 * nothing. */
struct mcp {
	bool rest[MCP_LISTS];
	bool limits[MCP_LISTS]; /* something may be taken from the list */
	char connection[80];    /* whose ids of sessions and events these are */
	struct buf id;          /* owned; the session's, for the answer's head */
	struct buf note;        /* owned; members of the record: who asked for what */
	struct buf rows;        /* owned; for names of tools: '+' or '-', the pattern, in which "*" is any text, and NUL; behind
	                         * those of a rule '=', their `rest`, and NUL: the others must allow the name, too */
};

static void
mcp_free(struct mcp *m)
{
	if (m == NULL)
		return;
	buf_free(&m->rows);
	buf_free(&m->id);
	buf_free(&m->note);
	free(m);
}

/* Does the whole name fit? Each "*" takes as little as it can; only the last one is ever tried again, so that
 * the cost is at most the product of both lengths. */
static bool
mcp_fits(struct slice pattern, struct slice name)
{
	size_t p = 0, i = 0, star = SIZE_MAX, from = 0;

	while (i < name.n) {
		if (p < pattern.n && pattern.p[p] == '*') {
			star = p++;
			from = i;
		} else if (p < pattern.n && pattern.p[p] == name.p[i]) {
			p++;
			i++;
		} else if (star != SIZE_MAX) {
			p = star + 1;
			i = ++from;
		} else {
			return false;
		}
	}
	while (p < pattern.n && pattern.p[p] == '*')
		p++;
	return p == pattern.n;
}

static bool
mcp_allows(const struct mcp *m, struct slice name)
{
	struct slice left = buf_slice(&m->rows);
	bool decided = false;

	while (left.n != 0) {
		struct slice row = slice_cut(&left, '\0');

		assert(row.n != 0);
		if (!decided && (row.p[0] == '=' ? row.p[1] != '+' : row.p[0] == '-' && mcp_fits((struct slice){row.p + 1, row.n - 1}, name)))
			return false;
		decided = row.p[0] != '=' && (decided || mcp_fits((struct slice){row.p + 1, row.n - 1}, name));
	}
	return decided || m->rest[MCP_TOOLS];
}

/* Reads an element of a list whose first token is `t`, to its end. True: it may be seen. */
static bool
mcp_element(const struct mcp *m, enum mcp_list list, struct json_reader *r, struct json_token *t)
{
	unsigned depth = t->depth;
	bool object = t->type == JSON_OBJECT, may = true, named = false;
	char name[JSON_STRING_MAX];

	if (t->type != JSON_OBJECT && t->type != JSON_ARRAY)
		return !m->limits[list];
	while (json_next(r, t) > JSON_END && (t->type != JSON_CLOSE || t->depth != depth)) {
		if (!object || t->depth != depth + 1 || t->type != JSON_KEY || !json_spells(t, SLICE("name"), true))
			continue;
		json_next(r, t);
		named = true;
		may = may && t->type == JSON_STRING && t->raw.n <= sizeof name &&
		    mcp_allows(m, t->escaped ? (struct slice){name, json_unescape(name, t)} : json_inside(t));
	}
	return !m->limits[list] || (list == MCP_TOOLS && named && may);
}

/* Copies what lies between *from and `upto` of the text. */
static void
mcp_copy(struct buf *out, struct slice in, size_t *from, size_t upto)
{
	buf_add(out, in.p + *from, upto - *from);
	*from = upto;
}

/* The reader is behind a list's bracket: copies the elements that may be seen. */
static void
mcp_list(const struct mcp *m, enum mcp_list list, struct json_reader *r, struct json_token *t, struct buf *out, size_t *from)
{
	size_t kept = 0;

	mcp_copy(out, r->text, from, r->at);
	while (json_next(r, t) > JSON_END && t->type != JSON_CLOSE) {
		size_t at = (size_t)(t->raw.p - r->text.p);

		if (mcp_element(m, list, r, t)) {
			buf_add(out, ",", kept++ != 0);
			buf_add(out, r->text.p + at, r->at - at);
		}
	}
	if (t->type == JSON_CLOSE)
		*from = r->at - 1;
}

/* Adds the message without what may not be seen. False: it is no JSON, or a list is none; or `out` is bad. */
static bool
mcp_edit(const struct mcp *m, struct slice in, struct buf *out)
{
	struct json_reader r;
	struct json_token t;
	size_t from = 0;
	unsigned base = 0;      /* depth of a message's members */
	bool result = false;    /* within `result` */

	json_open(&r, in);
	while (json_next(&r, &t) > JSON_END) {
		if (t.depth == 0)
			base = t.type == JSON_ARRAY ? 2 : 1;
		if (t.depth == base && t.type == JSON_KEY)
			result = json_spells(&t, SLICE("result"), true);
		if (!result || t.type != JSON_KEY || t.depth != base + 1)
			continue;
		if (json_spells(&t, SLICE("cacheScope"), true)) {
			json_next(&r, &t);
			mcp_copy(out, in, &from, (size_t)(t.raw.p - in.p));
			if (t.type == JSON_STRING || t.type == JSON_NULL) {
				buf_adds(out, "\"private\"");
				from = r.at;
			}
			continue;
		}
		for (int list = 0; list < MCP_LISTS; list++)
			if (t.type == JSON_KEY && json_spells(&t, mcp_lists[list], true)) {
				if (json_next(&r, &t) == JSON_ARRAY)
					mcp_list(m, list, &r, &t, out, &from);
				else if (m->limits[list] && t.type != JSON_NULL)
					return false;
			}
	}
	mcp_copy(out, in, &from, in.n);
	return t.type == JSON_END && buf_ok(out);
}

/* Is the text one call of a tool as nearly every client writes it: each member of the message, of
 * `params` and the revision in `_meta` at most once, none beside those that are named here, and no
 * escape in a key or in what is judged? Then: the tool's name, and the revision (NULL: not there).
 * Any other text is lua/web/mcp.lua's to read. */
static bool
mcp_call(struct slice in, struct slice *name, struct slice *revision)
{
	enum { ID = 1, METHOD, PARAMS, NAME, META = 6, REVISION = 8, ROW = 4 };
	static const char *const keys[] = {"jsonrpc", "id", "method", "params",
	    "name", "arguments", "_meta", "", "io.modelcontextprotocol/protocolVersion"};
	struct json_reader r;
	struct json_token t;
	struct slice value[COUNT(keys)] = {{NULL, 0}};
	size_t at = 0, k, end;

	json_open(&r, in);
	if (json_next(&r, &t) != JSON_OBJECT)
		return false;
	while (json_next(&r, &t) > JSON_END) {
		if (t.type != JSON_KEY || t.depth > 3 ||
		    (t.depth == 3 && at != META && at != REVISION))
			continue;
		k = (t.depth - 1) * ROW;
		end = t.depth == 3 ? COUNT(keys) : k + ROW;
		while (k < end && !slice_eq(json_inside(&t), slice_of(keys[k])))
			k++;
		if (t.escaped || (k < end && value[k].p != NULL) || (k == end && t.depth < 3))
			return false;
		if (k == end)
			continue;       /* other metadata */
		at = k;
		json_next(&r, &t);
		value[k] = t.raw;
		if (k == METHOD || k == NAME || k == REVISION) {
			if (t.type != JSON_STRING || t.escaped)
				return false;
			value[k] = json_inside(&t);
		} else if (k == PARAMS || k == META ? t.type != JSON_OBJECT :
		    k <= ID && t.type >= JSON_ARRAY) {
			return false;
		}
	}
	*name = value[NAME];
	*revision = value[REVISION];
	return t.type == JSON_END && slice_eq(value[METHOD], SLICE("tools/call")) &&
	    value[NAME].p != NULL;
}

/* -- ids of sessions and events: what the server gave reaches the client sealed, as a field of the record of its
 * connection, for all users of a tenant share one credential, and with it one server's sessions. */
#define MCP_ID_MAX 512          /* bytes; a UUID has 36 */
#define MCP_ID_NONCE 12
#define MCP_ID_TAG 16

static struct slice
mcp_type(const struct http_head *h)
{
	return http_trim(slice_until(http_value(h, SLICE("content-type")), ';'));
}

static const struct slice mcp_session = SLICE_INIT("mcp-session-id"), mcp_event = SLICE_INIT("last-event-id");

/* Adds nonce, ciphertext and tag in base64url. False: it is too long, or out of memory. */
static bool
mcp_put_id(const struct mcp *m, struct slice name, struct slice id, struct buf *out)
{
	char raw[MCP_ID_NONCE + MCP_ID_MAX + MCP_ID_TAG];

	if (id.n == 0)
		return true;
	if (m->connection[0] == '\0')           /* no gateway's */
		return buf_addv(out, id);
	if (id.n > MCP_ID_MAX || store.keys == NULL || !rand_bytes(raw, MCP_ID_NONCE))
		return false;
	memcpy(raw + MCP_ID_NONCE, id.p, id.n);
	store_seal_run(DB_GRANT, slice_of(m->connection), name, raw, raw + MCP_ID_NONCE, id.n,
	    (uint8_t *)raw + MCP_ID_NONCE + id.n, true);
	return buf_base64(out, (struct slice){raw, MCP_ID_NONCE + id.n + MCP_ID_TAG}, true);
}

/* The id that the client sent, as its server gave it: in `raw`. .p NULL: it is none of this connection's. */
static struct slice
mcp_take_id(const struct mcp *m, struct slice name, struct slice text, char raw[MCP_ID_NONCE + MCP_ID_MAX + MCP_ID_TAG])
{
	ssize_t n = b64_decode(raw, MCP_ID_NONCE + MCP_ID_MAX + MCP_ID_TAG, text, true) - MCP_ID_NONCE - MCP_ID_TAG;
	uint8_t tag[MCP_ID_TAG];

	if (n <= 0 || store.keys == NULL)
		return (struct slice){NULL, 0};
	store_seal_run(DB_GRANT, slice_of(m->connection), name, raw, raw + MCP_ID_NONCE, (size_t)n, tag, false);
	return (struct slice){ct_eq(tag, raw + MCP_ID_NONCE + n, MCP_ID_TAG) ? raw + MCP_ID_NONCE : NULL, (size_t)n};
}

/* Seals the session's id in an answer's head. False: it cannot be, or there are two. */
static bool
mcp_head(struct mcp *m, struct http_head *h)
{
	int i = http_find(h, mcp_session, 0);

	if (i < 0)
		return true;
	buf_clear(&m->id);
	if (!mcp_put_id(m, mcp_session, h->field[i].value, &m->id) || http_find(h, mcp_session, (size_t)i + 1) >= 0)
		return false;
	h->field[i].value = buf_slice(&m->id);
	return true;
}

static bool
mcp_answer(struct req *r, struct http_head *h, int io)
{
	struct buf in = r->answer;
	bool ok = io == FLOW_DONE && mcp_head(r->mcp, h);

	if (!ok || !slice_eq_nocase(mcp_type(h), SLICE("application/json")))
		return ok;
	r->answer = (struct buf){.max = in.max};
	ok = buf_reserve(&r->answer, in.n) && mcp_edit(r->mcp, buf_slice(&in), &r->answer);
	buf_free(&in);
	return ok;
}

/* -- a stream of events (WHATWG HTML, 9.2): lines, of which an empty one ends an event */
struct filter_mcp {
	struct filter f;
	struct filter *next;    /* owned; what goes on goes through it: it is scrubbed; NULL: it is not */
	const struct mcp *m;    /* borrowed from the req */
	struct buf event;       /* owned; the lines of an event that is not whole yet, an LF behind each, however it was ended */
	struct buf out;         /* owned */
	size_t given;           /* bytes of `out` that went on */
	size_t line;            /* in `event`: where its last line begins */
	size_t counted;         /* bytes of both buffers that are counted in req_bodies */
	bool cr;                /* the last byte was CR: an LF behind it ends no other line */
	bool start;             /* a byte order mark may begin here, which readers drop */
};

static const struct filter_fault *
mcp_fault(void)
{
	static const struct filter_fault fault = {502, "upstream_answer",
	    "an MCP message of the answer cannot be judged: it is not JSON, is longer than 4 MiB, or finds no room",
	    "an MCP server answers with application/json or text/event-stream, and no coding"};

	return &fault;
}

/* The value of a field's line; .p NULL: it is another field. */
static struct slice
filter_mcp_value(struct slice line, const char *name)
{
	size_t n = strlen(name);

	if (line.n < n || memcmp(line.p, name, n) != 0 || (line.n > n && line.p[n] != ':'))
		return (struct slice){NULL, 0};
	n += line.n > n;
	n += line.n > n && line.p[n] == ' ';
	return (struct slice){line.p + n, line.n - n};
}

/* The event is whole: puts it, its data edited and written line by line. Other fields stand before the data. */
static bool
filter_mcp_event(struct filter_mcp *w)
{
	struct slice left = buf_slice(&w->event), line, value;
	struct buf data, now;
	size_t lines = 0;
	bool ok = true;

	buf_init(&data, MCP_MESSAGE_MAX);
	buf_init(&now, MCP_MESSAGE_MAX + 64);
	while (left.n != 0) {
		line = slice_cut(&left, '\n');
		value = filter_mcp_value(line, "data");
		if (value.p != NULL && lines++ != 0)
			buf_adds(&data, "\n");
		if (value.p != NULL) {
			buf_addv(&data, value);
			continue;
		}
		value = filter_mcp_value(line, "id");
		if (value.p != NULL) {
			buf_adds(&w->out, "id: ");
			ok = mcp_put_id(w->m, mcp_event, value, &w->out) && ok;
			buf_adds(&w->out, "\n");
		} else if (line.n != 0)
			buf_join(&w->out, (struct slice[]){line, SLICE("\n")}, 2);
	}
	if (data.n != 0)
		ok = mcp_edit(w->m, buf_slice(&data), &now) && ok;
	left = buf_slice(&now);
	while (ok && left.n != 0)
		buf_join(&w->out, (struct slice[]){SLICE("data: "), slice_cut(&left, '\n'), SLICE("\n")}, 3);
	if (data.n == 0 && lines != 0)
		buf_adds(&w->out, "data:\n");
	buf_adds(&w->out, "\n");
	ok = ok && buf_ok(&data) && buf_ok(&w->out);
	buf_free(&data);
	buf_free(&now);
	buf_clear(&w->event);
	w->line = 0;
	return ok;
}

/* Takes bytes up to the end of an event. Returns how many; -1: the event cannot be judged. */
static ssize_t
filter_mcp_take(struct filter_mcp *w, struct slice in)
{
	size_t n = 0;

	if (w->cr && in.p[0] == '\n') {
		w->cr = false;
		return 1;
	}
	while (n < in.n && in.p[n] != '\r' && in.p[n] != '\n')
		n++;
	w->cr = n < in.n && in.p[n] == '\r';
	if (!buf_add(&w->event, in.p, n) || !buf_add(&w->event, "\n", n < in.n))
		return -1;
	if (w->start && w->event.n >= 3) {
		w->start = false;
		if (memcmp(w->event.p, "\xef\xbb\xbf", 3) == 0)
			buf_drop(&w->event, 3);
	}
	if (n == in.n)
		return (ssize_t)n;
	if (w->event.n == w->line + 1 && !filter_mcp_event(w))
		return -1;
	w->line = w->event.n;
	return (ssize_t)n + 1;
}

static ssize_t
filter_mcp_run(struct filter *f, struct slice in, bool end, struct slice *out)
{
	struct filter_mcp *w = (struct filter_mcp *)f;
	struct slice left = SLICE("");
	ssize_t took = 0, used;

	f->fault = mcp_fault();
	if (w->given == w->out.n && (w->next == NULL || !w->next->more)) {
		buf_recycle(&w->out, FLOW_BUF_KEEP);
		w->given = 0;
		while (in.n != 0 && w->out.n == 0) {
			if ((used = filter_mcp_take(w, in)) < 0)
				return -1;
			took += used;
			in = (struct slice){in.p + used, in.n - (size_t)used};
		}
		f->cost += w->out.n * 4;        /* it was read twice, and written */
		if (end && in.n == 0)
			buf_clear(&w->event);   /* an event without its end is none */
		if (!bodies_count(f->share, w->counted, w->event.cap + w->out.cap))
			return -1;
		w->counted = w->event.cap + w->out.cap;
	}
	if (w->next == NULL) {
		filter_give(f, &w->out, &w->given, end && in.n == 0, out);
		return took;
	}
	if (w->given != w->out.n && !w->next->more)
		left = (struct slice){w->out.p + w->given, w->out.n - w->given < PEER_PIECE ? w->out.n - w->given : PEER_PIECE};
	w->next->hurry = f->hurry;
	if ((used = w->next->class->run(w->next, left, end && in.n == 0 && w->given == w->out.n, out)) < 0) {
		f->fault = w->next->fault;
		return -1;
	}
	w->given += (size_t)used;
	f->cost += w->next->cost;
	w->next->cost = 0;
	f->hurry = w->next->hurry;
	f->hold_until = w->next->hold_until;
	f->more = w->given != w->out.n || w->next->more;
	f->ended = w->next->ended;
	return took;
}

static void
filter_mcp_wipe(struct filter *f)
{
	struct filter_mcp *w = (struct filter_mcp *)f;

	filter_free(w->next);
	bodies_count(f->share, w->counted, 0);
	buf_free(&w->event);
	buf_free(&w->out);
}

/* NULL: out of memory. `share`: of the agent's bodies. `next`, which may be NULL, becomes the filter's. */
static struct filter *
filter_mcp_new(const struct mcp *m, size_t *share, struct filter *next)
{
	static const struct filter_class class = {sizeof(struct filter_mcp), false, false, filter_mcp_run, filter_mcp_wipe};
	struct filter_mcp *w = (struct filter_mcp *)filter_alloc(&class);

	if (w == NULL) {
		filter_free(next);
		return NULL;
	}
	w->f.share = share;
	w->m = m;
	w->start = true;
	w->next = next;
	buf_init(&w->event, MCP_MESSAGE_MAX + 4096);
	buf_init(&w->out, 2 * MCP_MESSAGE_MAX);
	return &w->f;
}

/* A list that cannot be judged ends the answer; what no client reads a list in goes on: an error, "Accepted", the end
 * of a session. */
static enum scrub_way
mcp_begin(struct req *r, struct http_head *h)
{
	struct slice type = mcp_type(h), coding = http_value(h, SLICE("content-encoding"));
	size_t *share = r->counted != NULL ? &r->counted->bodies : NULL;
	bool events = slice_eq_nocase(type, SLICE("text/event-stream"));
	bool empty = h->body == BODY_NONE || (h->body == BODY_LENGTH && h->length == 0);
	uint64_t most = h->body == BODY_LENGTH ? h->length : MCP_MESSAGE_MAX;
	enum scrub_way way;

	if (!events && !empty && slice_eq_nocase(type, SLICE("application/json"))) {
		r->answer.max = MCP_MESSAGE_MAX;
		return coding.n == 0 && most <= MCP_MESSAGE_MAX && req_count_answer(r, (size_t)most) ? SCRUB_HELD : SCRUB_FAILS;
	}
	if (h->status == 101 || (!empty && coding.n != 0) || (!empty && !events && h->status < 300 && h->status != 202 &&
	    !slice_eq(r->head.method, SLICE("DELETE"))))
		return SCRUB_FAILS;
	way = answer_scrub(r, h);
	if (way == SCRUB_FAILS || (way != SCRUB_HELD && !mcp_head(r->mcp, h))) {
		flow_attach(&r->down_flow, NULL);
		return SCRUB_FAILS;
	}
	if (!events || empty)
		return way;
	r->down_flow.filter = filter_mcp_new(r->mcp, share, r->down_flow.filter);
	return r->down_flow.filter != NULL ? way : SCRUB_FAILS;
}

/* ---- reqlog ----------------------------------------------------------------
 * The request log, as a worker sees it: a pipe to the one process that writes the file
 * (lua/reqlog.lua, which lua/cli/master.lua starts), so that neither the loop nor a worker's death waits for the
 * disk. Skip it if you only read the log. Records wait in memory for REQLOG_DELAY_MS and go down
 * the pipe as lines, in pieces of at most PIPE_BUF, which do not mix with other workers' (pipe(7)):
 *
 *   JSON LF       a record
 *   "!" N JSON LF a record of N (8 hex digits) refusals: a flood of them is counted (lua/reqlog.lua)
 *   LF            the end of a batch
 *
 * While the disk does not keep up, records wait here. From half of the queue on a refusal is counted in
 * the last one of its agent and code that waits, so that none is lost. The record of a request that was
 * sent on is never dropped either: while the queue or one agent's part of it is full, the agent's
 * requests wait before they are sent (agent_turns). */

#define REQLOG_QUEUE (2u << 20)         /* bytes that wait: some 6,000 records */
#define REQLOG_SHARE (REQLOG_QUEUE / 4) /* of them one agent's, before its requests wait */
#define REQLOG_DELAY_MS 50              /* a look right after a request finds its record */
#define REQLOG_DRAIN_MS 2000            /* of a worker that ends */
#define REQLOG_SAY_MS 5000              /* between two lines about what was dropped */
#define REQLOG_WAKES 2                  /* what the writer counted is written by the second empty batch */
#define REQLOG_PATH_MAX 2048   /* DESIGN, Log */
#define REQLOG_KINDS 256                /* of refusals, an agent's with one code, that are told apart */

static struct reqlog_refused {
	uint32_t what;          /* hash of agent and code */
	uint64_t at;            /* where N of its last record stands, as reqlog.gone counts */
} reqlog_refused[REQLOG_KINDS];

enum reqlog_kind {
	REQLOG_REFUSED,                 /* refused by us: many alike become one record */
	REQLOG_PLAIN,                   /* answered by us */
	REQLOG_SENT,                    /* sent on: never dropped, because its agent waited for room */
};

static struct {
	int fd;                         /* owned: the pipe; -1: no log */
	struct buf pending;             /* owned; bounded by REQLOG_QUEUE, and by the requests in progress */
	unsigned turn;                  /* how often `pending` was empty */
	unsigned wakes;                 /* the writer is to be woken so many times more */
	uint64_t gone;                  /* bytes that went down the pipe */
	bool held;                      /* requests wait for room */
	struct timer timer;
	uint64_t dropped;               /* since the last line about it */
	int64_t say_at;                 /* monotonic ms: the next line is due */
} reqlog = {.fd = -1, .pending.max = SIZE_MAX / 2, .turn = 1, .gone = 1};

/* Writes as many pieces as the pipe takes. */
static void
reqlog_flush(struct timer *t)
{
	struct buf *b = &reqlog.pending;
	size_t at = 0, n;

	if (reqlog.dropped != 0 && clock_now() >= reqlog.say_at) {
		log_line("ev=log_dropped why=slow dropped=%ju", (uintmax_t)reqlog.dropped);
		reqlog.dropped = 0;
	}
	if (reqlog.fd < 0 || !buf_room(b, 1))
		return;
	buf_add(b, "\n", 1);
	for (; (n = b->n - at) != 0; at += n) {
		if (n > PIPE_BUF)
			for (n = PIPE_BUF; b->p[at + n - 1] != '\n'; n--)
				;
		if (write(reqlog.fd, b->p + at, n) != (ssize_t)n)
			break;          /* a piece is written whole or not at all: pipe(7) */
	}
	memmove(b->p, b->p + at, b->n - at);
	buf_cut(b, b->n - at);
	reqlog.gone += at;
	reqlog.turn += b->n == 0;
	if (b->n != 0 || reqlog.wakes != 0) {
		reqlog.wakes -= b->n == 0;
		timer_set(&reqlog.timer, clock_now() + REQLOG_DELAY_MS, reqlog_flush);
	}
	if (reqlog.held && at != 0) {
		reqlog.held = false;
		for (size_t i = 0; i < AGENT_SLOTS; i++)
			for (struct agent *a = agent_slots[i]; a != NULL; a = a->next)
				agent_turns(a);
	}
}

/* Are there records of this agent in the queue? */
static bool
reqlog_waits(const struct reqlog_share *s)
{
	return s->turn == reqlog.turn;
}

/* May a request of this agent be sent? False: agents_turn will be called when there is room. s->n
 * also counts records that went down the pipe since the queue was last empty: so a queue that is
 * shorter than a share holds no agent up. */
static bool
reqlog_room(const struct reqlog_share *s)
{
	bool room = reqlog.pending.n < REQLOG_SHARE || (reqlog.pending.n < REQLOG_QUEUE &&
	    (!reqlog_waits(s) || s->n < REQLOG_SHARE));

	reqlog.held = reqlog.held || !room;
	return room;
}

/* A record's members that say whose connection it is: the client's address (as a trusted proxy has it) or
 * user, where it is known, and ours where there are several listeners. */
static void
reqlog_put_ends(struct buf *b, const struct req *r)
{
	struct conn *c = r->conn;
	char text[NET_NAME_MAX];

	if (r->behind[0] != '\0')
		json_put_member(b, SLICE(",\"client\":"), slice_of(r->behind));
	else if (c->client.port != 0)
		json_put_member(b, SLICE(",\"client\":"), (struct slice){text, net_format(&c->client, text)});
	else if (c->at->at.port == 0)
		json_put_member(b, SLICE(",\"client\":"),
		    (struct slice){text, (size_t)snprintf(text, sizeof text, "uid:%u", c->uid)});
	if (net.several > 1 || c->at->at.port == 0)
		json_put_member(b, SLICE(",\"listener\":"), (struct slice){text, net_name(h2_wire(&c->peer)->watch.fd, text)});
}

/* Adds one record: a JSON object that begins with its time, shorter than PIPE_BUF. Copies it, never
 * blocks and never fails the request. `s`: its agent's share, or NULL. `what`: hash of agent and code. */
static void
reqlog_add(struct slice json, enum reqlog_kind kind, struct reqlog_share *s, uint32_t what)
{
	const struct slice line[] = {kind == REQLOG_REFUSED ? SLICE("!00000001") : SLICE(""), json, SLICE("\n")};
	struct reqlog_refused *last = &reqlog_refused[what % REQLOG_KINDS];
	uint8_t n[4];

	if (reqlog.fd < 0)
		return;
	if (kind == REQLOG_REFUSED && reqlog.pending.n > REQLOG_QUEUE / 2 && last->what == what && last->at >= reqlog.gone) {
		char *p = reqlog.pending.p + (last->at - reqlog.gone);

		if (hex_decode(n, (struct slice){p, 8})) {      /* counted in the last one of its kind, which waits here */
			store_be32(n, load_be32(n) + 1);
			hex_encode(p, n, sizeof n);
			return;
		}
	}
	if ((kind != REQLOG_SENT && reqlog.pending.n > REQLOG_QUEUE) ||
	    json.n > PIPE_BUF - 10 || !buf_room(&reqlog.pending, json.n + 10)) {
		meter_add(METER_COUNT, "log_drops", text_hash("log_drops"), "", 0);
		if (reqlog.dropped++ == 0)
			reqlog.say_at = clock_now() + REQLOG_SAY_MS;
		return;
	}
	if (kind == REQLOG_REFUSED) {
		reqlog.wakes = REQLOG_WAKES;
		*last = (struct reqlog_refused){what, reqlog.gone + reqlog.pending.n + 1};
	}
	buf_join(&reqlog.pending, line, 3);
	if (s != NULL) {
		s->n = (reqlog_waits(s) ? s->n : 0) + json.n;
		s->turn = reqlog.turn;
	}
	if (reqlog.timer.slot == 0)
		timer_set(&reqlog.timer, clock_now() + REQLOG_DELAY_MS, reqlog_flush);
}

/* -- what a record says */

/* DESIGN, Log: one record a request; never a header value, a query, a body or a secret. */
static void
reqlog_request(struct req *r)
{
	static struct buf b = {.max = 16 * 1024}, plain = {.max = HTTP_HEAD_MAX}; /* dead when this returns */
	bool refused = r->code[0] != '\0' && !r->sent;
	uint32_t who = text_hash(r->agent);
	struct slice path = r->path;
	size_t at;

	if (r->told != 0)
		req_tell_end(r);
	if (r->form == REQ_CONNECT && r->action == REQ_INTERCEPT)
		return;                 /* the requests inside speak for themselves */
	if (r->agent[0] == '\0' && (r->form == REQ_DOOR || (r->form == REQ_ORIGIN && r->code[0] == '\0')))
		return;                 /* open to all: a monitor asks each second, and the world would fill the log */
	meter_request(r, who);
	buf_clear(&plain);
	if (seal_hide(path, &plain))
		path = buf_slice(&plain);
	if (path.n > REQLOG_PATH_MAX)
		path.n = REQLOG_PATH_MAX;
	buf_clear(&b);
	json_put_number(&b, SLICE("{\"time\":"), (uint64_t)clock_read(CLOCK_REALTIME));
	json_put_member(&b, SLICE(",\"request\":"), slice_of(r->id));
	reqlog_put_ends(&b, r);
	json_put_member(&b, SLICE(",\"agent\":"), slice_of(r->agent));
	json_put_member(&b, SLICE(",\"bundle\":"), slice_of(r->bundle));
	json_put_member(&b, SLICE(",\"credential\":"), slice_of(r->credential));
	json_put_member(&b, SLICE(",\"decision\":"), r->allowed ? SLICE("allow") : SLICE("deny"));
	json_put_member(&b, SLICE(",\"reason\":"), slice_of(r->reason));
	json_put_member(&b, SLICE(",\"stripped\":"), slice_of(r->taken));
	if (r->mcp != NULL)
		buf_addv(&b, buf_slice(&r->mcp->note));
	buf_adds(&b, ",\"method\":");
	json_put(&b, r->head.method, true);
	if (r->form != REQ_CONNECT)
		json_put_member(&b, SLICE(",\"scheme\":"), r->secure ? SLICE("https") : SLICE("http"));
	json_put_member(&b, SLICE(",\"host\":"), slice_of(r->host));
	json_put_number(&b, SLICE(",\"port\":"), (uint64_t)r->port);
	buf_adds(&b, ",\"path\":");
	at = b.n;
	while (json_put(&b, path, true) && b.n - at > REQLOG_PATH_MAX + 2) {
		buf_cut(&b, at);
		path.n -= path.n / 8;
	}
	if (r->status != 0)
		json_put_number(&b, SLICE(",\"status\":"), (uint64_t)r->status);
	json_put_number(&b, SLICE(",\"up\":"), r->bytes_up);
	json_put_number(&b, SLICE(",\"down\":"), r->bytes_down);
	if (r->t_first != 0)
		json_put_number(&b, SLICE(",\"first_ms\":"), (uint64_t)(r->t_first - r->t_start));
	json_put_number(&b, SLICE(",\"ms\":"), (uint64_t)(clock_now() - r->t_start));
	json_put_member(&b, SLICE(",\"error\":"), slice_of(r->code));
	json_put_member(&b, SLICE(",\"note\":"), r->refused ? SLICE("credential_refused") :
	    r->seal == NULL ? SLICE("") : r->answer_held && !r->answer_begun && r->seal->note[0] == '\0' ?
	    SLICE("a secret was made and thrown away: the answer did not end") : slice_of(r->seal->note));
	if (r->tally.hits != 0)
		json_put_number(&b, SLICE(",\"scrubbed\":"), r->tally.hits);
	if (r->seal != NULL && r->seal->made != 0)
		json_put_number(&b, SLICE(",\"sealed\":"), r->seal->made);
	buf_adds(&b, r->unsealed != 0 ? ",\"unsealed\":true" : "");
	buf_adds(&b, r->conn->peer.stream != NULL || r->conn->peer.h2 != NULL ? ",\"h2\":true" : "");
	buf_adds(&b, r->up_h2 ? ",\"upstream_h2\":true" : "");
	buf_add(&b, "}", 1);
	reqlog_add(buf_slice(&b), refused ? REQLOG_REFUSED : r->sent ? REQLOG_SENT : REQLOG_PLAIN,
	    r->counted != NULL ? &r->counted->log : NULL, who ^ text_hash(r->code) * 31);
}

/* -- notes: log records of connections that end before a request: a failed handshake, another protocol.
 * The writer folds those of one kind. */
static void
reqlog_note(struct conn *c, const char *what, const char *why)
{
	static struct req r;            /* of which a record is made; its rest stays zero */

	text_copy(r.agent, sizeof r.agent, c->agent != NULL ? c->agent->name : "");
	text_copy(r.code, sizeof r.code, what);
	text_copy(r.host, sizeof r.host, c->host);
	snprintf(r.reason, sizeof r.reason, "%s: %s", what, why);
	r.head.method = c->tunnel ? SLICE("CONNECT") : SLICE("-");
	r.form = REQ_CONNECT;
	r.conn = c;
	r.counted = c->agent;
	r.port = c->port;
	r.t_start = clock_now();
	reqlog_request(&r);
}

/* Writes the queue before a process ends, after its loop, for at most REQLOG_DRAIN_MS. */
static void
reqlog_drain(void)
{
	int64_t until = clock_read(CLOCK_MONOTONIC) + REQLOG_DRAIN_MS;

	while (reqlog.pending.n != 0 && clock_read(CLOCK_MONOTONIC) < until) {
		reqlog_flush(NULL);
		if (reqlog.pending.n != 0)
			nanosleep(&(struct timespec){.tv_nsec = STORE_LOCK_POLL_NS}, NULL);
	}
}

/* ==== Part III: Lua, and what Lua calls =====================================
 * The state, its sandbox, and the modules that lua/ and policies/ use. A binding checks its
 * arguments, calls Part I or II, and pushes the result: its manual entry stands above it.
 */

/* ---- embed -----------------------------------------------------------------
 * The Lua text in the binary: build.sh packs lua/ and policies/ with LZMA, in one pack, which
 * liblzma unpacks as far as it is asked for.
 * Invariants: nothing but it is ever unpacked, and modules come from it
 * alone: no path and no environment variable leads to other code. Skip it: the text that it reads
 * was built into the same binary. */

/* The dictionary is 1 MiB (build.sh), the decoder's own state 30 KB. */
#define EMBED_MEMORY_MAX (2 << 20)

/* A pack: four bytes that tell the text's length, then the text as `xz --format=lzma` writes it. */
struct embed_pack {
	lzma_stream z;          /* owned; all zero while the pack is not open */
	size_t n;               /* the text's length */
	unsigned char *text;    /* owned: room for n bytes and one more */
};

static void
embed_end(struct embed_pack *p)
{
	lzma_end(&p->z);
	free(p->text);
	*p = (struct embed_pack){0};
}

static bool
embed_begin(struct embed_pack *p, const unsigned char *pack, size_t packed)
{
	uint32_t n;

	memcpy(&n, pack, sizeof n);
	*p = (struct embed_pack){.n = n, .text = malloc((size_t)n + 1)};
	if (p->text == NULL || lzma_alone_decoder(&p->z, EMBED_MEMORY_MAX) != LZMA_OK) {
		embed_end(p);
		return false;
	}
	p->z.next_in = pack + sizeof n;
	p->z.avail_in = packed - sizeof n;
	p->z.next_out = p->text;
	return true;
}

/* Goes on until the first `upto` bytes of the text are there: of all of it until the mark at its end,
 * which liblzma reads only while there is room for a byte more. */
static bool
embed_unpack(struct embed_pack *p, size_t upto)
{
	bool whole = upto == p->n;
	lzma_ret rc;

	if (p->z.total_out >= upto && !whole)
		return true;
	p->z.avail_out = upto + whole - p->z.total_out;
	rc = lzma_code(&p->z, LZMA_RUN);
	return p->z.total_out == upto && (whole ? rc == LZMA_STREAM_END && p->z.avail_in == 0 : rc == LZMA_OK);
}

/* -- modules */

/* Every file of lua/ and policies/, linked in by build.sh. Names are offsets from embed_base, which
 * need no relocation: 8 KB of the binary. */
extern const struct embed_file {
	uint32_t name;          /* "lua/pipeline.lua" */
	uint32_t from, n;       /* the file's bytes in the unpacked text */
} embed_files[];
extern const uint32_t embed_count;
extern const char embed_base[];
extern const unsigned char embed_packed[], embed_packed_end[];

static const struct embed_file *
embed_find(const char *name)
{
	for (unsigned i = 0; i < embed_count; i++)
		if (strcmp(embed_base + embed_files[i].name, name) == 0)
			return &embed_files[i];
	return NULL;
}

static struct embed_pack embed_open;    /* what is unpacked so far */
static bool embed_keeps = true;         /* it stays for the next file */

/* Pushes the text of an embedded file. The pack is unpacked as far as that file alone: build.sh puts
 * first what commands need. */
static void
embed_push(lua_State *L, const struct embed_file *f)
{
#ifdef SALLYPORT_STORED         /* a build for tests: what lies there is no pack, see build.sh */
	lua_pushlstring(L, (const char *)embed_packed + 4 + f->from, f->n);
	return;
#endif
	if (embed_open.text == NULL && !embed_begin(&embed_open, embed_packed, (size_t)(embed_packed_end - embed_packed)))
		luaL_error(L, "no memory to unpack %s", embed_base + f->name);
	if (f->from > embed_open.n || f->n > embed_open.n - f->from || !embed_unpack(&embed_open, f->from + f->n))
		luaL_error(L, "%s is damaged in this binary", embed_base + f->name);
	lua_pushlstring(L, (const char *)embed_open.text + f->from, f->n);
	if (!embed_keeps)
		embed_end(&embed_open);
}

/* Gives what is unpacked back (3 MB), once a worker or the master has started. For a file that is loaded later, the
 * pack is unpacked again. */
static void
embed_forget(void)
{
	embed_keeps = false;
	embed_end(&embed_open);
}

/* require("x.y") -> module
 *
 * The value that lua/x/y.lua returned: the file runs once. Raises where no such file is embedded. */
static int
l_require(lua_State *L)
{
	const char *module = luaL_checkstring(L, 1), *path, *file;
	const struct embed_file *f;

	lua_settop(L, 1);
	luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
	if (lua_getfield(L, 2, module) != LUA_TNIL)
		return 1;
	path = luaL_gsub(L, module, ".", "/");
	file = lua_pushfstring(L, "lua/%s.lua", path);
	if ((f = embed_find(file)) == NULL)
		return luaL_error(L, "module '%s' not found: no embedded %s", module, file);
	path = lua_pushfstring(L, "@%s", file);
	embed_push(L, f);
	if (luaL_loadbufferx(L, lua_tostring(L, -1), lua_rawlen(L, -1), path, "t") != LUA_OK)
		return lua_error(L);
	lua_pushvalue(L, 1);
	lua_call(L, 1, 1);
	if (lua_isnil(L, -1))
		return luaL_error(L, "module '%s' returns nothing", module);
	lua_pushvalue(L, -1);
	lua_setfield(L, 2, module);
	return 1;
}

/* Pushes what require(name) returns. */
static void
lua_push_module(lua_State *L, const char *name)
{
	lua_pushcfunction(L, l_require);
	lua_pushstring(L, name);
	lua_call(L, 1, 1);
}

/* Makes a module of C functions and leaves its table on the stack. */
static void
lua_bind(lua_State *L, const char *module, const luaL_Reg *reg)
{
	luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
	lua_newtable(L);
	luaL_setfuncs(L, reg, 0);
	lua_pushvalue(L, -1);
	lua_setfield(L, -3, module);
	lua_remove(L, -2);
}

struct import {
	const char *module, *fn;
	int ref;
};

static int
l_import(lua_State *L)
{
	struct import *im = lua_touserdata(L, 1);

	lua_push_module(L, im->module);
	if (lua_getfield(L, -1, im->fn) != LUA_TFUNCTION)
		return luaL_error(L, "%s.%s is not a function", im->module, im->fn);
	im->ref = luaL_ref(L, LUA_REGISTRYINDEX);
	return 0;
}

/* A reference to a Lua function that C starts tasks with; LUA_NOREF: logged. */
static int
lua_import(const char *module, const char *fn)
{
	struct import im = {module, fn, LUA_NOREF};

	lua_protect(l_import, &im);
	return im.ref;
}

/* ---- lua -------------------------------------------------------------------
 * The state: the allowance of a policy, the allocator, the libraries, what bounds string functions in a
 * policy, and the module sandbox, which runs a policy's functions. The only lua_resume is in `task`.
 * An allowance (lua_arm) is so many instructions, so much memory and processor time per resume. Once it is
 * used up the hook raises at every instruction, so that no pcall of a policy outlives it. The runtime's
 * own code is trusted and runs unhooked: a hook costs a fifth of the speed. Invariants: a policy reaches
 * what lua/allowed.lua copied into its environment, and nothing else; no function of a policy runs without
 * an allowance. Skip it if you read policies as trusted code. */
#define LUA_BUDGET 2000000      /* instructions per resume: some 40 ms; a type needs hundreds */
#define LUA_HOOK_EVERY 200      /* between two looks at the clock: one of them may copy 16 MiB */
#define LUA_CPU_MS 1000         /* per resume: a tenth of what the master's watchdog allows */
#define LUA_CPU_LATE_MS 8       /* measured from then on: nearly all calls end before */
#define LUA_RESUME_MEM (16u << 20) /* bytes above what was in use; bodies and secrets are C's */
#define LUA_RESERVE_MEM (1u << 20) /* more, once a policy is over, so that the error can be told */
#define LUA_COMMAND_S 10        /* of processor time: what a policy may run in a command, whatever it does */
#define LUA_REFUSALS_MAX 4      /* full collections that a policy may cause at its limit */
#define LUA_MS 10000            /* charged for a ms of matching: a fifth of what fits in it, for slow machines */
#define LUA_SHORT 256           /* bytes of a subject on which every pattern of the runtime is fast */
#define LUA_COPY 64             /* bytes that are copied in the time of one */
#define LUA_READ 16             /* bytes that are read, hashed or encoded: 16 MiB are half the budget */
#define LUA_CALL 32             /* instructions worth one digest of next to nothing */
#define LUA_SIGN 20000          /* instructions worth one RSA or EC signature */

/* Defined after all bindings: it calls lua_bind for each. */
static void lua_bind_all(lua_State *L, bool worker);
extern int luaopen_lpeg(lua_State *L);  /* Debian's package has no usable header */

/* -- the allowance of a policy */

enum lua_over { LUA_WITHIN, LUA_OVER_BUDGET, LUA_OVER_MEMORY, LUA_OVER_TIME };
static const char *const lua_over_why[] = {"error", "budget", "memory", "time"};        /* lua/sandbox.lua has the words */

/* What the running code may still use. The caller of lua_arm keeps the allowance that held before, and
 * gives it to lua_disarm. */
struct allowance {
	lua_State *co;          /* the policy's thread, hooked; NULL: the runtime's own code runs */
	int64_t left;           /* instructions */
	int64_t start;          /* ms of the coarse clock */
	int64_t cpu_start;      /* ms of this thread's processor time; 0: not read yet */
	size_t limit;           /* bytes that may be in use */
	size_t granted;         /* bytes of a body, for which there is more of both */
	unsigned refused;       /* allocations turned down */
	bool collecting;        /* the last allocation was turned down: Lua collects all, and asks again */
	enum lua_over over;
};

static struct allowance lua_now = {.left = INT64_MAX, .limit = SIZE_MAX};
static int64_t lua_spent, lua_turns;     /* instructions of the last allowance; allowances so far */
static size_t lua_used;                 /* bytes the state holds */
static char lua_running[LUA_NAME_MAX];  /* the policy that runs, or "" */
static const char lua_over_key;         /* its address: registry key of "policy_failed" */

static void
lua_set_running(const char *name)
{
	text_copy(lua_running, sizeof lua_running, name);
	if (lua_running_slot != NULL)
		memcpy(lua_running_slot, lua_running, sizeof lua_running);
}

static void lua_hook(lua_State *L, lua_Debug *ar);      /* lua_exceed sets it, and it calls lua_exceed */

/* From here on every instruction raises. Safe inside the allocator: lua_sethook may be called from
 * a signal handler (Lua's manual, lua.c). */
static void
lua_exceed(enum lua_over over)
{
	if (lua_now.over == LUA_WITHIN) {
		lua_now.over = over;
		if (lua_now.limit < SIZE_MAX - LUA_RESERVE_MEM)
			lua_now.limit += LUA_RESERVE_MEM;
	}
	lua_sethook(lua_now.co, lua_hook, LUA_MASKCOUNT, 1);
}

/* The message was made at the start: raising it allocates nothing. */
static int
lua_raise_over(lua_State *L)
{
	lua_rawgetp(L, LUA_REGISTRYINDEX, &lua_over_key);
	return lua_error(L);
}

/* The coarse clock (4 ms, no system call) tells when to ask for processor time, and that is what
 * counts: a machine that slept or a process that was stopped is not the policy's doing. */
static bool
lua_out_of_time(void)
{
	int64_t ran = clock_read(CLOCK_MONOTONIC_COARSE) - lua_now.start;

	if (ran < LUA_CPU_LATE_MS)
		return false;
	if (lua_now.cpu_start == 0)
		lua_now.cpu_start = clock_read(CLOCK_THREAD_CPUTIME_ID) + 1;
	return ran >= LUA_CPU_MS &&
	    clock_read(CLOCK_THREAD_CPUTIME_ID) - lua_now.cpu_start >= LUA_CPU_MS;
}

/* Takes instructions off the allowance, and raises once it is used up. Called by the hook, and by C
 * functions whose work grows with their arguments. */
static void
lua_charge(lua_State *L, int64_t instructions)
{
	if (lua_now.co == NULL)
		return;
	lua_now.left -= instructions;
	if (lua_now.left < 0)
		lua_exceed(LUA_OVER_BUDGET);
	else if (lua_now.over == LUA_WITHIN && lua_out_of_time())
		lua_exceed(LUA_OVER_TIME);
	if (lua_now.over != LUA_WITHIN)
		lua_raise_over(L);
}

static void
lua_hook(lua_State *L, lua_Debug *ar)
{
	lua_charge(L, LUA_HOOK_EVERY);
}

/* The master kills a worker that hangs. A command has no master: this timer kills it by SIGPROF
 * ("Profiling timer expired"). `seconds` 0: stops the timer. */
static void
lua_watch(time_t seconds)
{
	if (!lua_worker)
		setitimer(ITIMER_PROF, &(struct itimerval){.it_value = {.tv_sec = seconds}}, NULL);
}

/* From here on `co` runs a policy: within a new allowance, under the hook. */
static void
lua_arm(lua_State *co)
{
	lua_watch(LUA_COMMAND_S);
	lua_turns++;
	lua_now = (struct allowance){
		.co = co,
		.left = LUA_BUDGET,
		.start = clock_read(CLOCK_MONOTONIC_COARSE),
		.limit = lua_used + LUA_RESUME_MEM,
	};
	lua_sethook(co, lua_hook, LUA_MASKCOUNT, LUA_HOOK_EVERY);
}

/* The policy is over: `outer`, the allowance before lua_arm, holds again. */
static void
lua_disarm(const struct allowance *outer)
{
	if (lua_now.co != NULL) {
		lua_sethook(lua_now.co, NULL, 0, 0);
		lua_spent = LUA_BUDGET - lua_now.left;
	}
	if (lua_now.co != NULL && outer->co == NULL)
		lua_watch(0);
	lua_now = *outer;
	if (lua_now.co != NULL)
		lua_sethook(lua_now.co, lua_hook, LUA_MASKCOUNT, lua_now.over ? 1 : LUA_HOOK_EVERY);
}

static void
lua_allow(const struct task *t)
{
	if (lua_worker)
		lua_now = (struct allowance){.left = INT64_MAX, .limit = lua_used + LUA_RESUME_MEM + 3 * t->body};
	if (t->policy[0] == '\0')
		return;
	lua_set_running(t->policy);
	lua_arm(t->co);
}

static void
lua_allow_end(void)
{
	lua_disarm(&(struct allowance){.left = INT64_MAX, .limit = SIZE_MAX});
	if (lua_running[0] != '\0')
		lua_set_running("");
}

/* -- memory */

/* May the state grow by `more` bytes? Lua answers a refusal with a full collection and asks again.
 * A second refusal ends the policy's call; from then on small requests are granted from the
 * reserve, since a finalizer that the collector runs must not fail: it frees memory that Lua does
 * not see. LUA_REFUSALS_MAX bounds the collections that a policy just below its limit causes. */
static bool
lua_may_grow(size_t more)
{
	if (lua_used <= lua_now.limit && more <= lua_now.limit - lua_used) {
		lua_now.collecting = false;
		return true;
	}
	if (lua_now.co == NULL)
		return false;
	if (!lua_now.collecting && ++lua_now.refused < LUA_REFUSALS_MAX) {
		lua_now.collecting = true;
		return false;
	}
	lua_exceed(LUA_OVER_MEMORY);
	return lua_used <= lua_now.limit && more <= lua_now.limit - lua_used;
}

/* Shrinking never fails (Lua's manual, lua_Alloc). */
static void *
lua_alloc(void *ud, void *ptr, size_t osize, size_t nsize)
{
	void *p;

	if (ptr == NULL)
		osize = 0;              /* for a new object osize is its type */
	if (nsize == 0) {
		free(ptr);
		lua_used -= osize;
		return NULL;
	}
	if (nsize > osize) {
		if (hook_no_memory() || !lua_may_grow(nsize - osize))
			return NULL;
		/* a string function's work grows with the string that it makes */
		if (lua_now.co != NULL && (lua_now.left -= (int64_t)(nsize - osize) / LUA_COPY) < 0)
			lua_exceed(LUA_OVER_BUDGET);
	}
	p = realloc(ptr, nsize);
	if (p == NULL)
		return nsize <= osize ? ptr : NULL;
	lua_used = lua_used - osize + nsize;
	return p;
}

/* -- what a policy's call may cost
 * string.find, match, gmatch and gsub may take time that grows with a power of the subject's length;
 * string.rep and table.move may run over a long range of nothing. Lua counts each such call as one
 * instruction. All code therefore gets the functions below in their place: they charge and bound the
 * calls of a policy (`lua_now.co`). Upvalue 1 is Lua's own function. */
static const char lua_patterns_key;     /* its address is the registry key of the module patterns */

static int
l_of_lua(lua_State *L)
{
	return lua_tocfunction(L, lua_upvalueindex(1))(L);
}

static void
l_push_patterns(lua_State *L)
{
	if (lua_rawgetp(L, LUA_REGISTRYINDEX, &lua_patterns_key) != LUA_TNIL)
		return;
	lua_push_module(L, "patterns");
	lua_pushvalue(L, -1);
	lua_rawsetp(L, LUA_REGISTRYINDEX, &lua_patterns_key);
	lua_replace(L, -2);
}

/* string.find, string.match, string.gmatch, string.gsub (s, pattern, …): as Lua's manual has them
 *
 * Upvalue 2 is the function's name. lua/patterns.lua knows up to which length any subject is cheap
 * for a pattern (`free`), and refuses a pattern that may take too long (`judge`). All other calls
 * are charged by the CPU time that they took. In a worker the runtime's own calls on subjects of
 * more than LUA_SHORT bytes are judged too, for agents sent these subjects. */
static int
l_str_pattern(lua_State *L)
{
	int64_t start, work;
	size_t n, m, more = 0;
	const char *name, *pattern, *with;
	int rc;

	luaL_checklstring(L, 1, &n);
	pattern = luaL_checklstring(L, 2, &m);
	if (lua_now.co == NULL && (!lua_worker || n <= LUA_SHORT))
		return l_of_lua(L);
	name = lua_tostring(L, lua_upvalueindex(2));
	lua_settop(L, 4);
	work = (int64_t)n;
	if (strcmp(name, "find") == 0 && lua_toboolean(L, 4)) { /* plain */
		lua_charge(L, work * (int64_t)(1 + m / LUA_COPY) / LUA_READ + LUA_CALL);
		return l_of_lua(L);
	}
	if (strcmp(name, "gsub") == 0 && (with = lua_tolstring(L, 3, &more)) != NULL)
		for (size_t i = 0; i < more; i++)       /* each "%1" may be filled in n times */
			work += with[i] == '%' ? (int64_t)n : 0;
	lua_charge(L, work / LUA_READ + LUA_CALL);
	l_push_patterns(L);
	lua_getfield(L, 5, "free");
	lua_pushvalue(L, 2);
	if (lua_rawget(L, 6) != LUA_TNIL && n <= (size_t)lua_tointeger(L, -1) &&
	    (*pattern != '^' || strcmp(name, "gmatch") != 0)) {     /* no anchor to gmatch */
		lua_settop(L, 4);
		return l_of_lua(L);
	}
	lua_getfield(L, 5, "judge");
	lua_pushstring(L, name);
	lua_pushvalue(L, 1);
	lua_pushvalue(L, 2);
	lua_call(L, 3, 0);
	lua_settop(L, 4);
	start = clock_read(CLOCK_THREAD_CPUTIME_ID);
	rc = l_of_lua(L);
	lua_charge(L, (clock_read(CLOCK_THREAD_CPUTIME_ID) - start) * LUA_MS);
	return rc;
}

/* string.rep(s, n [, sep]) -> string
 *
 * A result that could never fit raises before memory is asked for. */
static int
l_str_rep(lua_State *L)
{
	size_t n, sep;
	lua_Integer times = luaL_checkinteger(L, 2);

	luaL_checklstring(L, 1, &n);
	luaL_optlstring(L, 3, "", &sep);
	if (n + sep == 0)               /* Lua's own runs n times over nothing */
		lua_settop(L, 1);
	else if (lua_now.co != NULL && times > 0 && (size_t)times > LUA_RESUME_MEM / (n + sep))
		return luaL_error(L, "resulting string too large");
	return n + sep == 0 ? 1 : l_of_lua(L);
}

/* table.move(a, from, to, at [, b]) -> b
 *
 * Charges one instruction an element, before the first is moved. */
static int
l_table_move(lua_State *L)
{
	lua_Integer from = luaL_checkinteger(L, 2), to = luaL_checkinteger(L, 3);

	if (to >= from) {
		luaL_argcheck(L, (lua_Unsigned)to - (lua_Unsigned)from < LUA_RESUME_MEM, 3,
		    "too many elements to move");
		lua_charge(L, to - from);
	}
	return l_of_lua(L);
}

/* table.insert(t, at, v), table.remove(t, at)
 *
 * What lies behind `at` moves: `#` is any border, so a table of forty members can be a list of 2^40. */
static int
l_table_shift(lua_State *L)
{
	bool insert = strcmp(lua_tostring(L, lua_upvalueindex(2)), "insert") == 0;
	lua_Integer at, n;

	if (lua_gettop(L) == 2 + insert && lua_istable(L, 1)) {
		at = lua_tointeger(L, 2);
		n = (lua_Integer)lua_rawlen(L, 1) - (at > 0 ? at : 0);
		lua_charge(L, n > 0 ? n / LUA_READ : 0);
	}
	return l_of_lua(L);
}

static const struct { const char *lib, *name; lua_CFunction bounded; } lua_bounded[] = {
	{LUA_STRLIBNAME, "find", l_str_pattern}, {LUA_STRLIBNAME, "gmatch", l_str_pattern},
	{LUA_STRLIBNAME, "gsub", l_str_pattern}, {LUA_STRLIBNAME, "match", l_str_pattern},
	{LUA_STRLIBNAME, "rep", l_str_rep}, {LUA_TABLIBNAME, "insert", l_table_shift},
	{LUA_TABLIBNAME, "move", l_table_move}, {LUA_TABLIBNAME, "remove", l_table_shift},
};

/* Replaces the functions in the libraries' own tables: ("x"):find reaches string.find's in
 * policies, too. The module `unbounded` keeps Lua's own, for lua/patterns.lua. */
static void
l_bound_libraries(lua_State *L)
{
	lua_getglobal(L, LUA_STRLIBNAME);
	lua_pushnil(L);
	lua_setfield(L, -2, "dump");
	luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
	lua_newtable(L);
	for (size_t i = 0; i < COUNT(lua_bounded); i++) {
		lua_getglobal(L, lua_bounded[i].lib);
		lua_getfield(L, -1, lua_bounded[i].name);
		lua_pushvalue(L, -1);
		lua_setfield(L, -4, lua_bounded[i].name);
		lua_pushstring(L, lua_bounded[i].name);
		lua_pushcclosure(L, lua_bounded[i].bounded, 2);
		lua_setfield(L, -2, lua_bounded[i].name);
		lua_pop(L, 1);
	}
	lua_setfield(L, -2, "unbounded");
	lua_pop(L, 2);
}

/* -- the module sandbox. lua/allowed.lua makes the environments. */

/* Stack: name, then results or the error. -> true, results… | false, error, why */
static int
l_sandbox_result(lua_State *L, int rc, enum lua_over over)
{
	if (rc == LUA_OK && over == LUA_WITHIN) {
		lua_pushboolean(L, true);
		lua_replace(L, 1);
		return lua_gettop(L);
	}
	lua_pushboolean(L, false);
	lua_insert(L, -2);
	lua_pushstring(L, lua_over_why[rc == LUA_ERRMEM ? LUA_OVER_MEMORY : over]);
	return 3;
}

/* sandbox.call(name, fn, …)
 *   -> true, results… | false, error, "error" | "budget" | "memory" | "time"
 *
 * Runs fn within an allowance of its own; fn cannot wait. name: the policy's. lua/sandbox.lua makes a message of the
 * error. */
static int
l_sandbox_call(lua_State *L)
{
	const struct allowance outer = lua_now;
	char was[LUA_NAME_MAX];
	enum lua_over over;
	int rc;

	luaL_checkstring(L, 1);
	luaL_checktype(L, 2, LUA_TFUNCTION);
	memcpy(was, lua_running, sizeof was);
	lua_set_running(lua_tostring(L, 1));
	lua_arm(L);
	rc = lua_pcall(L, lua_gettop(L) - 2, LUA_MULTRET, 0);
	over = lua_now.over;
	lua_disarm(&outer);
	lua_set_running(was);
	return l_sandbox_result(L, rc, over);
}

static int
l_sandbox_wait_k(lua_State *L, int rc, lua_KContext ctx)
{
	const struct allowance outer = {
		.left = INT64_MAX,
		.limit = lua_worker ? lua_used + LUA_RESUME_MEM + 3 * task_of(L)->body : SIZE_MAX,
	};
	enum lua_over over = lua_now.over;

	lua_disarm(&outer);
	lua_set_running("");
	task_of(L)->policy[0] = '\0';
	return l_sandbox_result(L, rc == LUA_YIELD ? LUA_OK : rc, over);
}

/* sandbox.wait(name, fn, …) -> as sandbox.call
 *
 * fn may wait: each resume has an allowance of its own. Yields. */
static int
l_sandbox_wait(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);
	struct task *t = task_of(L);
	int rc;

	luaL_checktype(L, 2, LUA_TFUNCTION);
	if (t == NULL || lua_now.co != NULL || !lua_isyieldable(L))
		return luaL_error(L, "cannot wait here");
	snprintf(t->policy, sizeof t->policy, "%s", name);
	lua_set_running(name);
	lua_arm(L);
	rc = lua_pcallk(L, lua_gettop(L) - 2, LUA_MULTRET, 0, 0, l_sandbox_wait_k);
	return l_sandbox_wait_k(L, rc, 0);
}

/* sandbox.default_source(name) -> text | nil
 *
 * The policy of that name that is embedded in this binary. */
static int
l_sandbox_default_source(lua_State *L)
{
	const struct embed_file *f;

	lua_pushfstring(L, "policies/%s.lua", luaL_checkstring(L, 1));
	if ((f = embed_find(lua_tostring(L, -1))) == NULL)
		luaL_pushfail(L);
	else
		embed_push(L, f);
	return 1;
}

/* sandbox.charge(instructions)
 *
 * Charges the running policy for C work of that size, from runtime code that the policy called. */
static int
l_sandbox_charge(lua_State *L)
{
	lua_charge(L, luaL_checkinteger(L, 1));
	return 0;
}

/* sandbox.spent() -> integer, integer
 *
 * Instructions that the policy's last call took, in steps of LUA_HOOK_EVERY. Then how many calls and
 * resumes there have been, which tells one from the next. */
static int
l_sandbox_spent(lua_State *L)
{
	lua_pushinteger(L, lua_spent);
	lua_pushinteger(L, lua_turns);
	return 2;
}

static const luaL_Reg l_sandbox[] = {
	{"call", l_sandbox_call}, {"charge", l_sandbox_charge}, {"default_source", l_sandbox_default_source},
	{"spent", l_sandbox_spent}, {"wait", l_sandbox_wait}, /* yields */
	{NULL, NULL},
};

/* -- the state */

static const struct { const char *name; lua_CFunction open; bool worker; } lua_libs[] = {
	{LUA_GNAME, luaopen_base, true}, {LUA_STRLIBNAME, luaopen_string, true},
	{LUA_TABLIBNAME, luaopen_table, true}, {LUA_MATHLIBNAME, luaopen_math, true},
	{LUA_UTF8LIBNAME, luaopen_utf8, true},
	{LUA_IOLIBNAME, luaopen_io, false},     /* commands read and print; a worker never does */
	{LUA_OSLIBNAME, luaopen_os, false},
	{LUA_DBLIBNAME, luaopen_debug, false},
	{LUA_COLIBNAME, luaopen_coroutine, false}, /* for tests: only lua_step resumes tasks */
	/* No package: it loads files and shared objects. */
};

/* Functions that load code, for which a worker has no use: lua/sandbox.lua has its own `load`. */
static const char *const lua_worker_lacks[] = {"dofile", "load", "loadfile"};

static int
l_open(lua_State *L)
{
	bool worker = *(const bool *)lua_touserdata(L, 1);

	for (size_t i = 0; i < COUNT(lua_libs); i++) {
		if (worker && !lua_libs[i].worker)
			continue;
		luaL_requiref(L, lua_libs[i].name, lua_libs[i].open, 1);
		lua_pop(L, 1);
	}
	lua_bind(L, "sandbox.core", l_sandbox);
	lua_getglobal(L, "load");
	lua_setfield(L, -2, "load");
	for (size_t i = 0; worker && i < COUNT(lua_worker_lacks); i++) {
		lua_pushnil(L);
		lua_setglobal(L, lua_worker_lacks[i]);
	}
	l_bound_libraries(L);
	luaL_requiref(L, "lpeg", luaopen_lpeg, 0);
	lua_pushliteral(L, "policy_failed");
	lua_rawsetp(L, LUA_REGISTRYINDEX, &lua_over_key);
	lua_pushcfunction(L, l_require);
	lua_setglobal(L, "require");
	if (!worker) {                  /* package.loaded: a test puts modules of its own there */
		lua_newtable(L);
		luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
		lua_setfield(L, -2, "loaded");
		lua_setglobal(L, "package");
	}
	lua_settop(L, 0);
	lua_bind_all(L, worker);
	return 0;
}

static int
lua_panic(lua_State *L)
{
	log_line("ev=lua_panic msg=\"%s\"", l_message(L));
	return 0;               /* Lua aborts: an error outside any protection is our bug */
}

/* Once per process. NULL: logged. */
static lua_State *
lua_open_state(bool worker)
{
	if ((lua_main = lua_newstate(lua_alloc, NULL)) == NULL) {
		log_line("ev=lua_open err=memory");
		return NULL;
	}
	lua_atpanic(lua_main, lua_panic);
	*(struct task **)lua_getextraspace(lua_main) = NULL;
	if (!lua_protect(l_open, &worker)) {
		lua_close(lua_main);
		return lua_main = NULL;
	}
	lua_worker = worker;
	embed_keeps = true;
	/* most objects of a request die young: the generational mode costs a fifth less than the incremental */
	if (worker)
		lua_gc(lua_main, LUA_GCGEN, 5, 100);
	return lua_main;
}

/* Called when the command is over: a master and its workers begin with a state of their own. */
static void
lua_close_state(void)
{
	for (struct task *t; (t = pool_get(&task_pool)) != NULL; free(t))
		;                       /* its coroutine goes with the state */
	lua_close(lua_main);
	lua_main = NULL;
}

/* ---- kept ------------------------------------------------------------------
 * A decision that Lua made, kept for later requests like the first: req:keep (bind: request) makes
 * it by kept_make, kept_again takes it over. Invariants: a decision holds for the generations of
 * the store that it was made from and until its time (kept_holds); all parts of a request that had
 * a say are compared (kept_fits), and known placeholders are looked for anew. Skip it after
 * kept_fits and kept_again: without a kept decision Lua decides each request. */
#define KEPT_SLOTS 512          /* about 3 KB each in use; one that another needs is made again */
#define KEPT_VALUE_MAX 256      /* bytes of a value that decides: a placeholder, a media type */
#define KEPT_TEXT_MAX 8192    /* bytes of names, query and such values: 4 MB in all slots, whoever fills them */
#define KEPT_SECRET_MAX 4096    /* bytes that were set: in all slots at most a sixteenth of the arena */
#define KEPT_ROUTE_MAX (HTTP_METHOD_MAX + 256 + REQ_WHO_MAX + 32)        /* method, host, token, the words between */
#define KEPT_BEGIN offsetof(struct req, dial_host)
#define KEPT_SIZE (offsetof(struct req, sent) - KEPT_BEGIN)

/* A decision is kept only where the type's `apply` read nothing of the request and nothing that
 * changes by itself. The parts that had a say are then these: method, scheme, host and port, the
 * agent's token, the names of all fields and of the query in their order, and the values of fields
 * that were stripped or that describe the body. */
struct kept {
	unsigned refs;          /* the slot's, and one of each request that uses the decision */
	uint64_t config, state; /* generations that decided; state 0: no token was attached */
	int64_t since;          /* Unix s; before it (the clock was set back) Lua decides by all dates anew */
	int64_t until;          /* Unix s: the end of the agent, its token, or what was attached */
	unsigned share;         /* the agent's share of requests, as in l_req_log */
	const struct known *known; /* borrowed from the userdata at known_ref; NULL: none */
	int known_ref;
	int ask_ref;            /* registry: asks the bundle's rules about a request; negative: there are none */
	struct scrub *back; /* owned */
	struct tls_ident *ident; /* owned reference; also in `decided` */
	char decided[KEPT_SIZE], agent[REQ_NAME_MAX];
	struct buf text;        /* owned; where the slices are */
	struct slice route, query;
	size_t came, n;         /* fields that came; n counts the fields that were set behind them, too */
	struct http_field field[]; /* came: a value of NULL stands for any; set: `own` is owned */
};

static struct kept *kept_slots[KEPT_SLOTS];

static void
kept_unref(struct kept *k)
{
	if (k == NULL || --k->refs != 0)
		return;
	for (size_t i = k->came; i < k->n; i++)
		secret_unref(k->field[i].own);
	scrub_free(k->back);
	tls_ident_unref(k->ident);
	luaL_unref(lua_main, LUA_REGISTRYINDEX, k->known_ref);
	luaL_unref(lua_main, LUA_REGISTRYINDEX, k->ask_ref);
	buf_free(&k->text);
	free(k);
}

/* "GET https://host:port token" in `room`, and " body" where there is one: all of an ordinary request
 * but path, query and fields. .p NULL: the request is a CONNECT's, in origin form or a WebSocket's. */
static struct slice
kept_route(const struct req *r, char room[KEPT_ROUTE_MAX])
{
	struct buf b = {.p = room, .cap = KEPT_ROUTE_MAX, .max = KEPT_ROUTE_MAX};
	const struct slice part[] = {r->head.method, r->secure ? SLICE(" https://") : SLICE(" http://"), slice_of(r->host),
	    SLICE(":"), slice_of(r->token), req_has_body(r) ? SLICE(" body") : SLICE("")};

	return (r->form == REQ_ABSOLUTE || r->form == REQ_TUNNEL || r->target.n != 0) && !r->websocket &&
	    buf_join(&b, part, 4) && buf_addu(&b, (uint64_t)r->port) && buf_add(&b, " ", 1) && buf_join(&b, part + 4, 2) ?
	    buf_slice(&b) : (struct slice){NULL, 0};
}

static struct kept **
kept_slot(const struct req *r, size_t came)
{
	size_t n = strlen(r->token);

	return &kept_slots[(text_hash(r->host) + text_hash(r->token + (n > 8 ? n - 8 : 0)) + 31 * came + r->head.method.n) % KEPT_SLOTS];
}

/* Do both queries have the same names, and does each value of `b` consist of unreserved characters
 * (RFC 3986 2.3), in which no server finds a further name? */
static bool
kept_query_like(struct slice a, struct slice b)
{
	size_t i = 0, j = 0;

	while (i < a.n && j < b.n) {
		if (a.p[i++] != b.p[j])
			return false;
		if (b.p[j++] != '=')
			continue;
		while (i < a.n && a.p[i] != '&')
			i++;
		while (j < b.n && (ascii_alnum(b.p[j]) || memchr("-._~", b.p[j], 4) != NULL))
			j++;
	}
	return i == a.n && j == b.n && (a.p == NULL) == (b.p == NULL);
}

/* Is the request like the kept one: its route, its query's names, its fields' names and order, and
 * each value that had a say? */
static bool
kept_fits(const struct kept *k, const struct req *r)
{
	char room[KEPT_ROUTE_MAX];

	if (k->came != r->head.nfields || !kept_query_like(k->query, r->query) || !slice_eq(k->route, kept_route(r, room)))
		return false;
	for (size_t i = 0; i < k->came; i++) {
		const struct http_field *f = &k->field[i], *now = &r->head.field[i];

		/* the rule also says whether a Connection field names it */
		if (f->rule != now->rule || !slice_eq(f->name, now->name) || (f->value.p != NULL && !slice_eq(f->value, now->value)))
			return false;
	}
	return true;
}

static bool
kept_holds(const struct kept *k, uint64_t config, uint64_t state)
{
	int64_t now = clock_wall();

	return k->config == config && (k->state == 0 || k->state == state) && now >= k->since && now < k->until;
}

static bool
kept_holds_now(const struct kept *k)
{
	uint64_t config, state;

	if (!store_generations(&config, &state))
		return false;
	store_read_reset();     /* a snapshot kept open would hide the next change */
	return kept_holds(k, config, state);
}

/* Takes it over. False: Lua decides. */
static bool
kept_take(struct req *r, struct kept *k)
{
	struct known_found found = {.n = 0};

	/* what rules set stands first behind what came: it has to be as it was */
	for (size_t i = k->came; i < r->head.nfields; i++)
		if (i >= k->n || !slice_eq(r->head.field[i].name, k->field[i].name) || !slice_eq(r->head.field[i].value, k->field[i].value))
			return false;
	if (k->known != NULL && (!known_scan_encoded(k->known, r->path, &found) || !known_scan_encoded(k->known, req_query_now(r), &found)))
		return false;
	for (size_t i = 0; k->known != NULL && i < k->came; i++)
		if (k->field[i].mark == FIELD_KEPT)
			known_scan_value(k->known, r->head.field[i].value, &found);
	if (found.n != 0)
		return false;
	req_claim(r, k->agent, k->share);
	if (r->held || r->too_many)
		return false;
	for (size_t i = 0; i < k->came; i++)
		r->head.field[i].mark = k->field[i].mark;
	for (; r->head.nfields < k->n; r->head.nfields++) {
		r->head.field[r->head.nfields] = k->field[r->head.nfields];
		secret_ref(k->field[r->head.nfields].own);
	}
	memcpy((char *)r + KEPT_BEGIN, k->decided, KEPT_SIZE);
	req_ask_readable(r);
	tls_ident_ref(r->ident);
	k->refs++;
	r->kept = k;
	r->back = k->back;
	r->judged = clock_now();
	r->action = REQ_FORWARD;
	return r->task_done = r->task_ok = true;
}

/* Is the request decided as an earlier one like it? False: Lua decides; *ask is what asks the rules of its bundle about
 * it, where there are some. */
static bool
kept_again(struct req *r, int *ask)
{
	struct kept *k = *kept_slot(r, r->head.nfields);

	if (k == NULL || !kept_fits(k, r) || req_sealed(r) || !kept_holds_now(k))
		return false;
	if (k->ask_ref < 0)
		return kept_take(r, k);
	req_claim(r, k->agent, k->share);       /* what has no turn yet is not counted */
	if (ask != NULL && task_running == NULL && !r->held && !r->too_many) {
		*ask = k->ask_ref;
		r->asked = k;
		k->refs++;
	}
	return false;
}

/* Copies `s` into k->text, for which kept_make has reserved room. */
static struct slice
kept_copy(struct kept *k, struct slice s)
{
	size_t at = k->text.n;

	return buf_addv(&k->text, s) && s.p != NULL ? (struct slice){k->text.p + at, s.n} : (struct slice){NULL, 0};
}

/* Had the value of this field a say in the decision? */
static bool
kept_reads(const struct req *r, const struct http_field *f)
{
	return f->own == NULL && (f->mark == FIELD_STRIPPED || (req_has_body(r) &&
	    (name_same(f->name, SLICE("content-type")) || name_same(f->name, SLICE("content-encoding")))));
}

/* Keeps the decision on the request in its slot. NULL: out of memory, or a part of the request had
 * a say that struct kept does not list. */
static struct kept *
kept_make(struct req *r)
{
	struct kept **slot, *k;
	size_t size = KEPT_ROUTE_MAX + r->query.n, set = 0;
	char room[KEPT_ROUTE_MAX];

	if (scrub_tables > SCRUB_TABLES_MAX || r->action != REQ_FORWARD || r->kept != NULL || r->looked || r->body_set || r->body_secret ||
	    r->head.body == BODY_CHUNKED ||
	    r->new_path != NULL || r->new_query != NULL || r->up_flow.filter != NULL || r->up_flow.reader != 0 ||
	    r->subst != NULL || r->seal != NULL || r->taken[0] != '\0')
		return NULL;
	for (const struct http_field *f = r->head.field; f < r->head.field + r->head.nfields; f++) {
		if ((f->mark == FIELD_KEPT && (f->rule & HDR_SECOND) != 0) ||
		    (f->own != NULL && !f->door ? (set += f->value.n) > KEPT_SECRET_MAX : kept_reads(r, f) && f->value.n > KEPT_VALUE_MAX))
			return NULL;
		size += f->name.n + KEPT_VALUE_MAX * kept_reads(r, f);
	}
	if (size > KEPT_TEXT_MAX || (k = calloc(1, sizeof *k + r->head.nfields * sizeof k->field[0])) == NULL)
		return NULL;
	k->refs = 1;
	k->known_ref = k->ask_ref = LUA_NOREF;
	k->text.max = size;
	if (!buf_reserve(&k->text, size) || (k->route = kept_copy(k, kept_route(r, room))).p == NULL) {
		kept_unref(k);
		return NULL;
	}
	k->query = kept_copy(k, r->query);
	for (; k->n < r->head.nfields; k->n++) {
		struct http_field *f = &k->field[k->n];

		*f = r->head.field[k->n];
		if (f->own != NULL && !f->door) {
			secret_ref(f->own);
			continue;
		}
		k->came = k->n + 1;
		f->own = NULL;          /* the door's own: each request has another one */
		f->name = kept_copy(k, f->name);
		f->value = kept_reads(r, f) ? kept_copy(k, f->value) : (struct slice){NULL, 0};
	}
	memcpy(k->agent, r->agent, sizeof k->agent);
	memcpy(k->decided, (char *)r + KEPT_BEGIN, KEPT_SIZE);
	k->ident = tls_ident_ref(r->ident);
	k->back = r->back;
	r->kept = k;
	k->refs++;
	slot = kept_slot(r, k->came);
	kept_unref(*slot);
	return *slot = k;
}

/* Drops the decisions that no longer hold. Their secrets go with the last request that uses them. */
static void
kept_sweep(uint64_t config, uint64_t state)
{
	static uint64_t was[2];

	for (size_t i = 0; i < KEPT_SLOTS; i++)
		if (kept_slots[i] != NULL && !kept_holds(kept_slots[i], config, state)) {
			kept_unref(kept_slots[i]);
			kept_slots[i] = NULL;
		}
	scrub_sweep(config != was[0] || state != was[1]);
	was[0] = config;
	was[1] = state;
}

/* ---- fetch -----------------------------------------------------------------
 * One HTTP request of our own, to a token endpoint for example: a fresh connection through the
 * same guard and TLS as a client's request, no redirects, the whole answer in memory up to a
 * bound. Invariants: request and answer may hold secrets, so their buffers are wiped; the owner
 * may free a fetch at any moment. Skip it if you review how clients' requests are handled: none
 * passes here. */
#define FETCH_OUT_MAX (2 * 1024 * 1024)         /* the largest secret, as a body */
#define FETCH_BODY_MAX (16 * 1024 * 1024)       /* DESIGN's largest body */

struct fetch {
	struct wait wait;
	struct upstream *up;    /* owned while it runs */
	struct buf out;         /* owned; head and body */
	struct buf head_bytes;  /* owned; the part of the answer's head that has come */
	size_t scanned;
	struct flow up_flow, down_flow; /* `out` to the server, the answer's body into `body` */
	struct buf body;        /* owned */
	struct slice method;    /* static or into `out` */
	bool head_only;         /* the caller wants no body: it may never end */
	struct defer defer;     /* another turn */
	int status;
	const char *error;      /* static; NULL: an answer came whole */
	char detail[160];       /* a copy: the upstream's own words go with it */
};

static void
fetch_free(struct wait *w)
{
	struct fetch *f = OWNER(w, struct fetch, wait);

	upstream_drop(&f->up);
	loop_undefer(&f->defer);
	buf_free(&f->out);
	buf_free(&f->head_bytes);
	buf_free(&f->body);
	flow_free(&f->up_flow);
	flow_free(&f->down_flow);
}

/* Ends the fetch, once. Always false, so that a step may return it. */
static bool
fetch_finish(struct fetch *f, const char *error, const char *detail)
{
	if (f->wait.done)
		return false;
	f->error = error;
	text_copy(f->detail, sizeof f->detail, detail != NULL ? detail : "");
	upstream_drop(&f->up);
	wait_end(&f->wait);
	return false;
}

/* Parses the answer's head once it is whole; an interim one (RFC 9110 15.2) is passed over. False:
 * the fetch has ended. */
static bool
fetch_read_head(struct fetch *f)
{
	static struct http_head head;   /* dead before this returns */
	bool whole;

	if (!peer_take_head(&f->up->peer, &f->head_bytes, &f->scanned, &whole))
		return fetch_finish(f, "too_large", "the answer's head");
	if (!whole)
		return true;
	if (http_parse_response(f->head_bytes.p, f->head_bytes.n, f->method, &head) <= 0 ||
	    head.status == 101)
		return fetch_finish(f, "cut", "a malformed answer");
	if (head.status >= 200) {
		f->status = head.status;
		if (f->head_only)
			return fetch_finish(f, NULL, NULL);
		flow_init(&f->down_flow, &f->up->peer, NULL, (int)head.body, head.length, false);
		f->down_flow.into = &f->body;
		if (head.body == BODY_LENGTH && head.length > f->body.max)
			return fetch_finish(f, "too_large", "the answer's body");
		return true;            /* head_bytes stay: l_fetch_push reads them */
	}
	buf_clear(&f->head_bytes);
	f->scanned = 0;
	return true;
}

/* Sends and reads until both directions wait. A server may answer before it has read the request. */
static void
fetch_advance(struct defer *d)
{
	struct fetch *f = OWNER(d, struct fetch, defer);
	enum flow_io up, down = FLOW_TURN;
	unsigned heads = 0;

	if (f->wait.done)
		return;
	up = flow_pump(&f->up_flow);    /* where this fails, an answer may have come */
	while (f->status == 0 && heads++ < CONN_STEPS) {
		enum io io = peer_fill(&f->up->peer);

		if (io == IO_OK && !fetch_read_head(f))
			return;
		if (io == IO_EOF || io == IO_ERR) {
			fetch_finish(f, "cut", "the connection ended before an answer");
			return;
		}
		if (io == IO_AGAIN) {
			down = FLOW_WAIT;
			break;
		}
	}
	if (f->status != 0)
		down = flow_pump(&f->down_flow);
	if (down == FLOW_DONE)
		fetch_finish(f, NULL, NULL);
	else if (down == FLOW_DST_GONE)
		fetch_finish(f, "too_large", "the answer's body");
	else if (down == FLOW_SRC_GONE || down == FLOW_BAD)
		fetch_finish(f, "cut", "the answer was cut short");
	else if (down == FLOW_TURN || up == FLOW_TURN)
		loop_defer(&f->defer, fetch_advance);
}

static void
fetch_event(struct upstream *u)
{
	struct fetch *f = u->owner;

	if (u->state == UP_FAILED)
		fetch_finish(f, strcmp(u->code, "upstream_tls") == 0 && !u->late ? "tls" :
		    u->late || strcmp(u->code, "upstream_unreachable") == 0 || strcmp(u->code, "upstream_proxy") == 0 ?
		    "unreachable" : u->code, u->why);
	else if (u->state == UP_OPEN)
		fetch_advance(&f->defer);
}

/* The caller has written the whole request into f->out and set f->body.max. The fetch may have
 * ended when this returns. */
static void
fetch_start(struct fetch *f, const char *host, uint16_t port, bool use_tls, struct tls_ident *ident,
    const struct cidr *allow, size_t nallow, bool through)
{
	buf_init(&f->head_bytes, HTTP_HEAD_MAX);
	if ((f->up = upstream_new("", host, port, use_tls, ident, through)) == NULL) {
		fetch_finish(f, "unreachable", "out of memory");
		return;
	}
	f->up->owner = f;
	f->up->event = fetch_event;
	flow_init(&f->up_flow, NULL, &f->up->peer, BODY_LENGTH, f->out.n, false);
	f->up_flow.from = buf_slice(&f->out);
	upstream_dial(f->up, allow, nallow);
}

/* ---- helper ----------------------------------------------------------------
 * Programs of the operator's that print headers (the type `command`). A worker starts them itself
 * and hands on nothing: execveat replaces the memory that vfork lent, close_range leaves the
 * descriptors 0 to 3, the environment is empty, and SIGKILL follows the worker's death. A run has
 * a deadline and a bounded output, and at its end its process group is killed. A process that left
 * the group becomes the worker's child (PR_SET_CHILD_SUBREAPER) and is killed as soon as no other
 * run is left, so that a run never ends a process of another run. Not covered: a descendant
 * outside the group of a program whose worker was killed. Skip it unless you use the type
 * `command`. */
#define HELPER_OUTPUT_MAX (64 * 1024)
#define HELPER_RUNS_MAX 8       /* of a worker; a token is kept for its ttl, so few are ever wanted */
#define HELPER_MS_MAX 10000     /* a refresh has no more */
#define HELPER_LOOK_MS 2        /* between two looks for the end of a program whose output has ended */
#define HELPER_CLEAR_MS 5000    /* to end what is left of a run; mostly a few ms suffice */

/* One program from start to end. helper_over frees it once its owner is gone. */
struct helper_run {
	struct defer gone;      /* first, for defer_free: an event of this turn may still name the watch */
	struct watch watch;     /* our end of its standard output */
	struct timer timer;     /* its deadline; later the next look */
	int64_t until;          /* monotonic ms */
	pid_t pid;              /* 0: none, or reaped */
	/* borrowed from the owner: once done, code, status and output are final; NULL: the owner is gone */
	struct wait *wait;
	struct buf in;          /* owned; its output: wiped */
	const char *code;       /* static; why it failed; NULL: it did not */
	int status;             /* of "command_failed" */
};

static int helper_dir = -1;             /* the folder, opened when it was named; -1: nothing is run */
static unsigned helper_runs;            /* whose program has not been reaped */

/* Does the file belong to root or to the worker's user, and may no other user write to it? */
static bool
helper_trusts(const struct stat *st)
{
	return (st->st_uid == 0 || st->st_uid == geteuid()) && (st->st_mode & 022) == 0;
}

/* Opens a program of the folder itself: `name` is no path and no symbolic link. -1: *code says
 * why. */
static int
helper_open(const char *name, const char **code)
{
	int fd = strchr(name, '/') != NULL || name[0] == '.' ? -1 :
	    openat(helper_dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st, folder;

	*code = "command_missing";
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) == 0 && fstat(helper_dir, &folder) == 0 && S_ISREG(st.st_mode) &&
	    (st.st_mode & 0111) != 0) {
		if (helper_trusts(&st) && helper_trusts(&folder))
			return fd;
		*code = "command_unsafe";
	}
	close(fd);
	return -1;
}

/* The child: becomes the program. Its memory is still the worker's, so it writes to its own frame
 * alone. Descriptor 3 stays open, because a script's interpreter opens the script through it. */
__attribute__((noreturn)) static void
helper_exec(pid_t worker, int program, int out, char **argv)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGXFSZ, SIGCHLD, SIGUSR1};
	char *const nothing[] = {NULL};
	int null = open("/dev/null", O_RDWR), at = fcntl(program, F_DUPFD, 16),
	    to = fcntl(out, F_DUPFD, 16);
	sigset_t none;

	setsid();               /* a group of its own, to be killed whole */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != worker)
		_exit(127);             /* the worker died before PR_SET_PDEATHSIG took effect */
	for (size_t i = 0; i < COUNT(signals); i++)
		signal(signals[i], SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (null < 0 || at < 0 || to < 0 || chdir("/") != 0 || dup2(null, 0) < 0 || dup2(to, 1) < 0 ||
	    dup2(null, 2) < 0 || dup2(at, 3) < 0 || close_range(4, ~0U, 0) != 0 ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		_exit(127);
	execveat(3, "", argv, nothing, AT_EMPTY_PATH);
	_exit(127);
}

/* Returns when the child has become the program, or has failed to. */
static pid_t
helper_vfork(int program, int out, char **argv)
{
	pid_t worker = getpid(), pid = vfork();

	if (pid == 0)
		helper_exec(worker, program, out, argv);
	return pid;
}

static void
helper_over(struct helper_run *h)
{
	timer_stop(&h->timer);
	if (h->wait != NULL) {
		wait_end(h->wait);
		return;
	}
	buf_free(&h->in);
	loop_defer(&h->gone, defer_free);
}

/* Reaps the program, then kills the processes that it left behind: the orphans of each look are the
 * worker's children in the next. /proc has the numbers, and waitid tells the worker's children from
 * others: the kernel's own list of children is an option that small systems leave out. */
static void
helper_clear(struct timer *t)
{
	struct helper_run *h = OWNER(t, struct helper_run, timer);
	const struct dirent *e;
	pid_t orphan = -1, pid;
	siginfo_t info;
	DIR *proc;

	if (h->pid > 0 && waitpid(h->pid, NULL, WNOHANG) == h->pid) {
		h->pid = 0;
		helper_runs--;
	}
	if (h->pid == 0 && helper_runs == 0) {
		while ((orphan = waitpid(-1, NULL, WNOHANG)) > 0)
			;
		proc = orphan == 0 ? opendir("/proc") : NULL;
		while (proc != NULL && (e = readdir(proc)) != NULL)
			if ((pid = atoi(e->d_name)) > 0 && waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0)
				kill(pid, SIGKILL);
		if (proc != NULL)
			closedir(proc);
	}
	if ((h->pid != 0 || orphan == 0) && clock_now() < h->until)
		timer_set(t, clock_now() + HELPER_LOOK_MS, helper_clear);
	else
		helper_over(h);
}

/* Ends the run. The program is not reaped yet, so h->pid still names its group. */
static void
helper_stop(struct helper_run *h, const char *code)
{
	watch_close(&h->watch);
	h->code = code;
	kill(-h->pid, SIGKILL);
	h->until = clock_now() + HELPER_CLEAR_MS;
	helper_clear(&h->timer);
}

/* Looks whether the program has ended, once its output has, and whether the deadline is past. */
static void
helper_look(struct timer *t)
{
	struct helper_run *h = OWNER(t, struct helper_run, timer);
	siginfo_t ended = {0};

	if (h->watch.fd < 0 &&
	    waitid(P_PID, (id_t)h->pid, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 &&
	    ended.si_pid != 0) {
		h->status = ended.si_code == CLD_EXITED ? ended.si_status : 255;
		helper_stop(h, h->status == 0 ? NULL : "command_failed");
	} else if (clock_now() >= h->until) {
		helper_stop(h, "command_timeout");
	} else {
		timer_set(t, clock_now() + HELPER_LOOK_MS, helper_look);
	}
}

/* Reads to the end of the output, then waits for the end of the program; both before `until`. */
static void
helper_ready(struct watch *w)
{
	struct helper_run *h = OWNER(w, struct helper_run, watch);
	char part[8192];
	ssize_t n;

	while ((n = read(w->fd, part, sizeof part)) > 0 && buf_add(&h->in, part, (size_t)n))
		;
	wipe(part, sizeof part);
	w->readable = false;
	if (n > 0) {
		helper_stop(h, "command_too_large");
	} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
		watch_close(w);
		helper_look(&h->timer);
	}
}

/* Starts the program argv[0] in an empty `h`. If that fails, the run ends at once and h->code says
 * why. */
static void
helper_start(struct helper_run *h, char **argv, int64_t ms)
{
	int program = helper_open(argv[0], &h->code), pipes[2] = {-1, -1};

	if (program >= 0) {
		h->code = "command_busy";
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		if (helper_runs < HELPER_RUNS_MAX && pipe2(pipes, O_CLOEXEC | O_NONBLOCK) == 0) {
			h->watch = (struct watch){.fd = pipes[0], .ready = helper_ready};
			fcntl(pipes[1], F_SETFL, 0);
			if (watch_add(&h->watch, EPOLLIN | EPOLLET))
				h->pid = helper_vfork(program, pipes[1], argv);
			close(pipes[1]);
		}
		close(program);
	}
	if (h->pid <= 0) {
		h->pid = 0;
		watch_close(&h->watch);
		helper_over(h);
		return;
	}
	helper_runs++;
	h->until = clock_now() + ms;
	timer_set(&h->timer, h->until, helper_look);
}

/* ---- bind: values ----------------------------------------------------------
 * What all bindings share (arguments, results, waiting), and the Lua modules secret.core,
 * sign.core and json.core. What policies know as secret, sign, json, form, uri and keys
 * are modules of these names in lua/: templates, JSON texts, forms and JWTs are put together there
 * by core.join.
 *
 * Invariants: a function that makes bytes takes strings and secrets alike, and its result is a
 * secret as soon as one argument is; readers (json.decode) take strings alone. A result is
 * written once, into lua_text, which lies in the arena from the moment that a secret joins it: a
 * secret's bytes are never in a Lua string or a luaL_Buffer. A handle is a userdata holding a
 * struct secret_handle. Nothing tells a handle's length or content, and nothing compares two: but
 * for methods, `..` and __gc the metatable's events raise, and Lua cannot reach the metatable.
 *
 * Read handles, results and arguments, and skip the rest: the other functions check arguments and
 * call codec, uri, json and sign. */
#define L_JSON_ARRAY "sallyport.json.array"
#define L_EXPECT_MAX 32         /* members that one `expect` may name */
#define L_TEXT_MAX (16u << 20)  /* bytes of one text: DESIGN's largest body */

/* -- what every binding uses */

static int
l_answer(lua_State *L, bool b)
{
	lua_pushboolean(L, b);
	return 1;
}

static void
l_push_slice(lua_State *L, struct slice s)
{
	if (s.p == NULL)
		lua_pushnil(L);
	else
		lua_pushlstring(L, s.p, s.n);
}

/* Pushes a value of C: a bool (`true` and `a < b` are none: they are an int), a text or a slice (NULL: nil), an
 * integer. Made of it: one result, two, three (`1 + l_two`: one was pushed before), a member of the table on top. */
#define l_push(L, x) _Generic((x), bool: lua_pushboolean, char *: lua_pushstring, const char *: lua_pushstring, \
    struct slice: l_push_slice, default: lua_pushinteger)(L, x)
#define l_one(L, x) (l_push(L, x), 1)
#define l_two(L, x, y) (l_push(L, x), l_push(L, y), 2)
#define l_three(L, x, y, z) (l_push(L, x), l_push(L, y), l_push(L, z), 3)
#define l_set(L, key, x) (l_push(L, x), lua_setfield(L, -2, key))
#define L_NIL ((const char *)NULL)
#define NO_SLICE ((struct slice){NULL, 0})
#define L_TEXT(s) ((s)[0] != '\0' ? (s) : NULL)  /* nil where the text is empty */

/* Answers nil and a short code: for errors that are not the caller's. */
static int
l_fail(lua_State *L, const char *code)
{
	return l_two(L, L_NIL, code);
}

/* False too where there is no table. */
static bool
l_flag(lua_State *L, int table, const char *key)
{
	bool set = false;

	if (lua_istable(L, table)) {
		lua_getfield(L, table, key);
		set = lua_toboolean(L, -1);
		lua_pop(L, 1);
	}
	return set;
}

static lua_Integer
l_integer(lua_State *L, int table, const char *key, lua_Integer otherwise)
{
	lua_Integer n;

	lua_getfield(L, table, key);
	n = luaL_optinteger(L, -1, otherwise);
	lua_pop(L, 1);
	return n;
}

/* For each member of the list at `list`, an index from the bottom: it is on top while the body
 * runs, which leaves the stack as it was. */
#define L_EACH(L, list, i) for (lua_Integer i = 1, i##_most = luaL_len(L, list); \
    i <= i##_most && (lua_geti(L, list, i), true); i++, lua_pop(L, 1))

/* Copies the string table[key], if there is one. Raises where it is too long. */
static void
l_opt_name(lua_State *L, int table, const char *key, char *out, size_t cap)
{
	if (lua_getfield(L, table, key) == LUA_TSTRING && !text_copy(out, cap, lua_tostring(L, -1)))
		luaL_error(L, "%s is too long", key);   /* cut off, a name would be another's */
	lua_pop(L, 1);
}

/* A string argument. A number becomes a string, as luaL_checklstring has it. */
static struct slice
l_check_text(lua_State *L, int idx)
{
	struct slice s;

	s.p = luaL_checklstring(L, idx, &s.n);
	return s;
}

/* The message on top of the stack of a task that failed. */
static const char *
l_message(lua_State *co)
{
	return lua_type(co, -1) == LUA_TSTRING ? lua_tostring(co, -1) : "?";
}

/* A kind of handle. luaL_checkudata looks a metatable up by name, l_check_type compares its
 * address: there is one state a process, which keeps the metatable. */
struct l_type {
	const char *name;
	const void *meta;       /* where its metatable lies */
};

/* Makes the metatable of a handle, which Lua cannot reach. Pops its __index, or nil, from the top. gc frees what it
 * holds; either function may be NULL. */
static void
l_metatable(lua_State *L, struct l_type *t, lua_CFunction gc, lua_CFunction newindex)
{
	const luaL_Reg events[] = {{"__gc", gc}, {"__close", gc}, {NULL, NULL}};

	luaL_newmetatable(L, t->name);
	t->meta = lua_topointer(L, -1);
	lua_insert(L, -2);
	lua_setfield(L, -2, "__index");
	if (gc != NULL)
		luaL_setfuncs(L, events, 0);
	if (newindex != NULL) {
		lua_pushcfunction(L, newindex);
		lua_setfield(L, -2, "__newindex");
	}
	l_set(L, "__metatable", t->name);
	lua_pop(L, 1);
}

static int
l_miss(lua_State *L)
{
	const char *name = lua_tostring(L, 2);

	return luaL_error(L, "%s%s%s", lua_tostring(L, lua_upvalueindex(1)), name != NULL ? name : luaL_typename(L, 2),
	    lua_tostring(L, lua_upvalueindex(2)));
}

/* A name that the table on top, a handle's __index, does not have raises: nil would be taken for a value. */
static void
l_no_other(lua_State *L, const char *before, const char *behind)
{
	lua_newtable(L);
	l_push(L, before);
	l_push(L, behind);
	lua_pushcclosure(L, l_miss, 2);
	lua_setfield(L, -2, "__index");
	lua_setmetatable(L, -2);
}

/* As luaL_testudata. */
static void *
l_test_type(lua_State *L, int idx, const struct l_type *t)
{
	void *p = lua_touserdata(L, idx);
	bool is;

	if (p == NULL || !lua_getmetatable(L, idx))
		return NULL;
	is = lua_topointer(L, -1) == t->meta;
	lua_pop(L, 1);
	return is ? p : NULL;
}

/* As luaL_checkudata, which words the error. */
static void *
l_check_type(lua_State *L, int idx, const struct l_type *t)
{
	void *p = l_test_type(L, idx, t);

	return p != NULL ? p : luaL_checkudata(L, idx, t->name);
}

/* Pushes a handle of `size` zeroed bytes and so many user values. `t` NULL: memory alone, which the
 * collector frees. */
static void *
l_new(lua_State *L, size_t size, int values, const struct l_type *t)
{
	void *p = memset(lua_newuserdatauv(L, size, values), 0, size);

	if (t != NULL)
		luaL_setmetatable(L, t->name);
	return p;
}

static struct l_type l_type_secret = {.name = "sallyport.secret"};
static struct l_type l_type_wait = {.name = "sallyport.wait"};

/* -- waiting */

static int
l_wait_gc(lua_State *L)
{
	struct wait *w = l_check_type(L, 1, &l_type_wait);

	if (w->drop != NULL)
		w->drop(w);
	w->drop = NULL;
	return 0;
}

/* Keeps two arguments, of which the second is the deadline, and pushes the third: a handle of
 * `size` zeroed bytes that begins with a struct wait. `drop` runs when the binding returns or
 * raises, and when its task is abandoned while it waits. */
static void *
l_wait_new(lua_State *L, size_t size, void (*drop)(struct wait *))
{
	struct wait *w;

	lua_settop(L, 2);
	w = l_new(L, size, 0, &l_type_wait);
	lua_toclose(L, 3);
	w->task = task_of(L);
	w->drop = drop;
	return w;
}

/* Pushes the binding's results and returns their number. Negative: the event has not come, and the
 * deadline is not past. */
typedef int l_wait_push(lua_State *L, bool late);

static int
l_wait_k(lua_State *L, int status, lua_KContext push)
{
	int64_t deadline = (int64_t)lua_tointeger(L, 2);
	int n = ((l_wait_push *)push)(L, clock_now() >= deadline);

	return n >= 0 ? n : task_yield(L, deadline, push, l_wait_k);
}

/* The last call of a binding that yields. Argument 2 is the deadline (monotonic ms). */
static int
l_wait(lua_State *L, l_wait_push *push)
{
	return l_wait_k(L, LUA_OK, (lua_KContext)push);
}

/* A body of n bytes becomes a string: thrice as much memory and reading comes on top of the allowance, for
 * the body and two texts that are made of it. It is granted once, however often the body is asked for. */
static void
lua_grant(size_t n)
{
	size_t more = n > lua_now.granted ? n - lua_now.granted : 0;

	lua_now.granted += more;
	lua_now.limit += lua_now.limit < SIZE_MAX ? 3 * more : 0;
	lua_now.left += lua_now.co != NULL ? 3 * (int64_t)(more / LUA_READ) : 0;
	if (task_running != NULL && task_running->body < n)
		task_running->body = n;
}

/* -- heavy work: what reads a large text runs in a helper thread while its task waits, so that no
 * body stops the loop. Until it is done the task is busy, and conn_close leaves all that the work
 * borrows. Where nobody may wait, the work is done at once. */
#define HEAVY_MIN (64 * 1024)   /* bytes: less takes a millisecond or two */
#define HEAVY_MAX 16            /* of one task's policy: each resume has an allowance of its own */

struct heavy {
	struct job job;         /* its lane is JOB_READ unless the binding says another one */
	struct task *task;      /* borrowed */
	bool done;
	int (*then)(lua_State *L, void *heavy);         /* pushes the results */
};

static void
heavy_done(struct defer *d)
{
	struct heavy *h = OWNER(OWNER(d, struct job, defer), struct heavy, job);

	h->done = true;
	h->task->busy = false;
	task_wake(h->task);
}

static int
l_heavy_k(lua_State *L, int status, lua_KContext ctx)
{
	struct heavy *h = (struct heavy *)ctx;

	return h->done ? h->then(L, h) : task_yield(L, INT64_MAX, ctx, l_heavy_k);
}

/* The last call of a binding: run(&h->job), perhaps in a helper thread (no Lua, nothing of the loop's), then
 * `then`. `bytes`: how much there is to read. Yields. */
static int
l_heavy(lua_State *L, struct heavy *h, size_t bytes, void (*run)(struct job *),
    int (*then)(lua_State *, void *))
{
	struct task *t = bytes >= HEAVY_MIN && job_threaded && lua_isyieldable(L) ? task_of(L) : NULL;

	if (t == NULL || (lua_now.co != NULL && ++t->heavy > HEAVY_MAX)) {
		run(&h->job);
		return then(L, h);
	}
	h->job = (struct job){.lane = h->job.lane, .owner = t->agent, .run = run, .done = heavy_done};
	h->task = t;
	h->then = then;
	t->busy = true;
	job_submit(&h->job);
	return task_yield(L, INT64_MAX, (lua_KContext)h, l_heavy_k);
}

/* -- secret: making a handle */

/* Pushes an empty handle. The handle joins the task's scope after it has its metatable, whose __gc
 * takes it out again. */
static struct secret_handle *
l_new_secret(lua_State *L)
{
	struct secret_handle *h;

	luaL_checkstack(L, 3, NULL);
	h = lua_newuserdatauv(L, sizeof *h, 0);
	*h = (struct secret_handle){0};
	if (luaL_getmetatable(L, l_type_secret.name) != LUA_TTABLE)     /* nil would be set */
		luaL_error(L, "module secret is not open");
	lua_setmetatable(L, -2);
	if ((h->scope = secret_scope_now) != NULL) {
		h->next = h->scope->first;
		h->link = &h->scope->first;
		if (h->next != NULL)
			h->next->link = &h->next;
		h->scope->first = h;
	}
	return h;
}

/* The message for bytes that do not fit. For a secret there is one message, whatever the reason: a
 * policy that builds a secret around a guess would otherwise learn of its bytes. */
#define L_UNFIT(is_secret, why) ((is_secret) ? "a secret that does not fit there" : (why))

/* -- results: lua_text grows in the C heap until a secret joins it, and in the arena from then on.
 * A text that is not pushed is wiped when the next one begins, or at the task's end. */

/* Begins a text of about n bytes. Where the arena is full, a collection frees the handles that are
 * garbage. */
static struct buf *
l_text(lua_State *L, bool is_secret, size_t n)
{
	if (is_secret && !secret_fits(n))
		lua_gc(L, LUA_GCCOLLECT);
	buf_free(&lua_text);
	lua_text = (struct buf){.max = L_TEXT_MAX, .secret = is_secret};
	return &lua_text;
}

/* Refuses a size. In a policy this ends the call: a limit that pcall could catch would tell a
 * secret's length. */
static int
l_secret_refuse_size(lua_State *L, const char *why)
{
	if (lua_now.co != NULL) {
		lua_exceed(LUA_OVER_MEMORY);
		lua_raise_over(L);
	}
	return luaL_error(L, "%s", why);
}

static int
l_text_refuse(lua_State *L)
{
	return lua_text.secret ? l_secret_refuse_size(L, "no room for secrets (one takes at most 2 MiB)") :
	    luaL_error(L, "a text of more than 16 MiB");
}

/* Pushes lua_text: as a handle where a part of it was a secret, else as a string. */
static int
l_text_push(lua_State *L)
{
	struct secret_handle *h;

	if (!buf_ok(&lua_text))
		return l_text_refuse(L);
	lua_charge(L, (int64_t)lua_text.n / LUA_COPY + LUA_CALL);
	if (lua_text.secret) {
		h = l_new_secret(L);
		if (h->scope != NULL && h->scope->bytes + lua_text.n > SECRET_SCOPE_MAX)
			lua_gc(L, LUA_GCCOLLECT);
		if (h->scope != NULL && h->scope->bytes + lua_text.n > SECRET_SCOPE_MAX)
			return l_text_refuse(L);
		if ((h->s = buf_take_secret(&lua_text)) == NULL)        /* an empty one takes a block, too */
			return l_text_refuse(L);
		if (h->scope != NULL)
			h->scope->bytes += h->s->n;
	} else {
		lua_pushlstring(L, lua_text.p, lua_text.n);
		buf_free(&lua_text);
	}
	return 1;
}

/* Pushes the content of `b` as l_text_push does. `b` is empty afterwards, also where this raises. */
static int
l_push_buf(lua_State *L, struct buf *b)
{
	buf_free(&lua_text);
	lua_text = *b;
	*b = (struct buf){.max = b->max};
	return l_text_push(L);
}

/* Begins a text of n bytes that the caller fills. Raises where there is no room. */
static char *
l_text_room(lua_State *L, bool is_secret, size_t n)
{
	struct buf *b = l_text(L, is_secret, n);

	if (!buf_reserve(b, n == 0 ? 1 : n))    /* never NULL */
		l_text_refuse(L);
	b->n = n;
	return b->p;
}

static int
l_push_secret_copy(lua_State *L, struct slice s)
{
	buf_addv(l_text(L, true, s.n), s);
	return l_text_push(L);
}

/* Pushes a handle. Takes the reference, also where this raises. */
static void
l_push_secret(lua_State *L, struct secret *s)
{
	struct buf b = {.p = s->p, .n = s->n, .cap = s->n, .secret = true};

	l_push_buf(L, &b);
}

/* -- arguments: strings and secrets */

/* The secret at idx, borrowed while its handle is on the stack. NULL: no handle. Raises for an
 * empty handle, and for one of a credential that the task does not act for. */
static struct secret *
l_test_secret(lua_State *L, int idx)
{
	struct secret_handle *h = l_test_type(L, idx, &l_type_secret);

	if (h != NULL && h->s == NULL)
		luaL_error(L, "secret is closed");
	if (h != NULL && !secret_handle_usable(h))
		luaL_error(L, "a secret of another credential");
	return h == NULL ? NULL : h->s;
}

static struct secret_handle *
l_check_handle(lua_State *L, int idx)
{
	return l_check_type(L, idx, &l_type_secret);
}

static struct slice
l_check_secret(lua_State *L, int idx)
{
	struct secret *s = l_test_secret(L, idx);

	luaL_argexpected(L, s != NULL, idx, "secret");
	return secret_slice(s);
}

static struct slice
l_check_slice(lua_State *L, int idx)
{
	struct slice s;

	luaL_argexpected(L, lua_type(L, idx) == LUA_TSTRING, idx, "string");
	s.p = lua_tolstring(L, idx, &s.n);
	lua_charge(L, (int64_t)s.n / LUA_READ);
	return s;
}

/* The row whose name, its first member, is the argument. */
static size_t
l_check_row(lua_State *L, int idx, const void *rows, size_t size, size_t n, const char *expected)
{
	struct slice name = l_check_slice(L, idx);
	size_t i = 0;

	while (i < n && !slice_eq(name, slice_of(*(const char *const *)(const void *)((const char *)rows + i * size))))
		i++;
	luaL_argcheck(L, i < n, idx, expected);
	return i;
}
#define L_CHECK_ROW(L, idx, rows, expected) l_check_row(L, idx, rows, sizeof *(rows), COUNT(rows), expected)

/* Borrows the bytes of a string or a secret; false for any other value. Sets *is_secret for a
 * secret, and never clears it. */
static bool
l_value_slice(lua_State *L, int idx, struct slice *out, bool *is_secret)
{
	struct secret *s;

	if (lua_type(L, idx) == LUA_TSTRING) {
		out->p = lua_tolstring(L, idx, &out->n);
		return true;
	}
	if ((s = l_test_secret(L, idx)) == NULL)
		return false;
	*out = secret_slice(s);
	*is_secret = true;
	return true;
}

static struct slice
l_check_value(lua_State *L, int idx, bool *is_secret)
{
	struct slice s = {NULL, 0};

	luaL_argexpected(L, l_value_slice(L, idx, &s, is_secret), idx, "string or secret");
	lua_charge(L, (int64_t)s.n / LUA_READ + LUA_CALL);
	return s;
}

/* As l_value_slice for a part of a text. A number on the stack becomes a string first, as Lua's
 * `..` writes it. */
static bool
l_part_slice(lua_State *L, int idx, struct slice *out, bool *is_secret)
{
	if (lua_type(L, idx) == LUA_TNUMBER)
		lua_tolstring(L, idx, NULL);
	return l_value_slice(L, idx, out, is_secret);
}

/* -- codecs */

static const struct codec {
	const char *name;
	enum { CODEC_BASE64, CODEC_HEX, CODEC_PERCENT, CODEC_JSON } kind;
	unsigned mode;                  /* of CODEC_PERCENT an enum pct; of CODEC_BASE64: is it for URLs? */
	unsigned most;                  /* bytes that one byte becomes */
} codecs[] = {
	{"base64",      CODEC_BASE64, false, 2},        /* RFC 4648 4 */
	{"base64url",   CODEC_BASE64, true, 2},         /* RFC 4648 5, without padding (RFC 7515 2) */
	{"hex",         CODEC_HEX, PCT_NONE, 2},        /* lower case */
	{"percent",     CODEC_PERCENT, PCT_URI, 3},
	{"form",        CODEC_PERCENT, PCT_FORM, 3},
	{"json_string", CODEC_JSON, PCT_NONE, 6},       /* in quotes */
};

/* secret.decode("hex" | "base64" | "base64url", x) -> string | secret | nil, "malformed"
 *
 * The decoded bytes, a secret where x is one: some keys are given out in letters and used as
 * bytes. In a policy a secret x must be a field of the credential. */
static int
l_secret_decode(lua_State *L)
{
	static const char *const ways[] = {"hex", "base64", "base64url", NULL};
	int way = luaL_checkoption(L, 1, NULL, ways);
	bool is_secret = false;
	struct slice in = l_check_value(L, 2, &is_secret);
	ssize_t n;
	char *out;

	if (is_secret && lua_now.co != NULL && !l_check_handle(L, 2)->field)
		return luaL_error(L, "a field of the credential is decoded, not what was built of it");
	out = l_text_room(L, is_secret, in.n);
	if (way != 0)
		n = b64_decode(out, in.n, in, way == 2);
	else
		n = hex_decode(out, in) ? (ssize_t)(in.n / 2) : -1;
	if (n <= 0)
		return l_fail(L, "malformed");
	buf_cut(&lua_text, (size_t)n);
	return l_text_push(L);
}

/* secret.NAME(x), x:NAME() -> string | secret
 *
 * One function for each row of `codecs`. json_string raises for what is not UTF-8. */
static int
l_secret_code(lua_State *L)
{
	const struct codec *c = lua_touserdata(L, lua_upvalueindex(1));
	bool is_secret = false;
	struct slice in = l_check_value(L, 1, &is_secret);
	struct buf *b = l_text(L, is_secret, in.n * c->most);

	switch (c->kind) {
	case CODEC_BASE64:
		buf_base64(b, in, c->mode);
		break;
	case CODEC_HEX:
		if (buf_reserve(b, 2 * in.n))
			b->n += hex_encode(b->p + b->n, in.p, in.n);
		break;
	case CODEC_PERCENT:
		pct_put(b, in, (enum pct)c->mode);
		break;
	case CODEC_JSON:
		if (!json_put(b, in, false) && buf_ok(b))
			return luaL_error(L, "%s: %s", c->name, L_UNFIT(is_secret, "not UTF-8"));
	}
	return l_text_push(L);
}

/* -- digests, keys and signatures */

static const struct sign_hash *
l_check_hash(lua_State *L, int idx)
{
	return &sign_hashes[L_CHECK_ROW(L, idx, sign_hashes, "sha1, sha256, sha384 or sha512 expected")];
}

/* A digest or HMAC on its way. */
struct digest {
	struct heavy heavy;
	const struct sign_hash *hash;   /* static */
	struct slice key, in;   /* borrowed from the stack; key.p NULL: a digest */
	bool is_secret;
	unsigned char out[64];
	lua_Integer rounds;     /* of PBKDF2: key is the password, in the salt */
	struct req *r;          /* of view:sigv4; borrowed */
};

static void
digest_run(struct job *j)
{
	struct digest *d = OWNER(j, struct digest, heavy.job);

	if (d->key.p != NULL)
		sign_hmac(d->hash, d->key, &d->in, 1, (char *)d->out);
	else
		sign_digest(d->hash, d->in, (char *)d->out);
}

static int
l_digest_k(lua_State *L, void *heavy)
{
	struct digest *d = heavy;

	memcpy(l_text_room(L, d->is_secret, d->hash->n), d->out, d->hash->n);
	wipe(d->out, sizeof d->out);
	return l_text_push(L);
}

/* The digest of value `data`; `key` not 0: its HMAC. */
static int
l_digest(lua_State *L, const struct sign_hash *h, int key, int data)
{
	struct digest *d = l_new(L, sizeof *d, 0, NULL);

	d->hash = h;
	if (key != 0)
		d->key = l_check_value(L, key, &d->is_secret);
	d->in = l_check_value(L, data, &d->is_secret);
	return l_heavy(L, &d->heavy, d->in.n, digest_run, l_digest_k);
}

/* -- passwords */
#define PBKDF2_JOBS 5           /* one runs and four wait: more would wait for seconds */

static _Atomic unsigned pbkdf2_jobs;

/* The first block of PBKDF2 with HMAC-SHA256. */
static void
pbkdf2_run(struct job *j)
{
	struct digest *p = OWNER(j, struct digest, heavy.job);
	unsigned char u[32];
	const struct slice first[] = {p->in, {"\0\0\0\1", 4}}, last = {(const char *)u, sizeof u};
	br_hmac_key_context key;

	br_hmac_key_init(&key, &br_sha256_vtable, p->key.p, p->key.n);
	sign_mac(&key, first, COUNT(first), u);
	memcpy(p->out, u, sizeof u);
	for (lua_Integer i = 1; i < p->rounds; i++) {
		sign_mac(&key, &last, 1, u);
		for (size_t k = 0; k < sizeof u; k++)
			p->out[k] ^= u[k];
	}
	wipe(&key, sizeof key);
	wipe(u, sizeof u);
	pbkdf2_jobs--;
}

/* sign.pbkdf2(password, salt, rounds) -> 32 bytes | nil, "busy"
 *
 * PBKDF2-HMAC-SHA256 (RFC 8018 5.2). password: a string or a secret. A lane of its own makes one after the
 * other; "busy": PBKDF2_JOBS run or wait. Yields. */
static int
l_sign_pbkdf2(lua_State *L)
{
	struct digest *p = l_new(L, sizeof *p, 0, NULL);
	bool is_secret;         /* what comes out is none: it is stored, and compared */

	p->hash = SIGN_SHA256;
	p->key = l_check_value(L, 1, &is_secret);
	p->in = l_check_slice(L, 2);
	p->rounds = luaL_checkinteger(L, 3);
	if (pbkdf2_jobs >= PBKDF2_JOBS)
		return l_fail(L, "busy");
	pbkdf2_jobs++;
	p->heavy.job.lane = JOB_HASH;
	return l_heavy(L, &p->heavy, HEAVY_MIN, pbkdf2_run, l_digest_k);
}

/* sign.sha256(x), x:sha256() -> string | secret
 *
 * The 32 bytes of SHA-256. */
static int l_sign_sha256(lua_State *L) { return l_digest(L, SIGN_SHA256, 0, 1); }

/* sign.digest(alg, x) -> string | secret
 *
 * The raw bytes. alg: "sha1", "sha256", "sha384" or "sha512". */
static int l_sign_digest(lua_State *L) { return l_digest(L, l_check_hash(L, 1), 0, 2); }

/* secret.hmac(key, alg, x), key:hmac(alg, x) -> string | secret
 *
 * The raw bytes of the HMAC (RFC 2104). alg: as for sign.digest. */
static int l_secret_hmac(lua_State *L) { return l_digest(L, l_check_hash(L, 2), 1, 3); }

/* The key at idx. In a policy a secret key must be a field of the credential: errors about a key
 * that was built around a secret would tell of the secret's bytes. */
static struct slice
l_check_key(lua_State *L, int idx, bool *is_secret)
{
	bool secret = false;
	struct slice in = l_check_value(L, idx, &secret);

	if (secret && lua_now.co != NULL && !l_check_handle(L, idx)->field)
		luaL_error(L, "a private key is a field of the credential, not what was built");
	*is_secret |= secret;
	lua_charge(L, LUA_SIGN);        /* callers read the key, and most of them sign */
	return in;
}

/* sign.key_info(key) -> { type=, format=, bits=, curve=, encrypted= } | nil, code
 *
 * An encrypted key tells its format and that the key is encrypted. Codes: see lua/keys.lua. */
static int
l_sign_key_info(lua_State *L)
{
	bool is_secret = false;
	struct slice in = l_check_key(L, 1, &is_secret);
	struct key_info info;
	const char *why = key_read(in, NULL, &info);

	if (why != NULL)
		return l_fail(L, why);
	lua_createtable(L, 0, 5);
	l_set(L, "type", info.type);
	l_set(L, "format", info.format);
	l_set(L, "curve", info.curve);
	l_set(L, "encrypted", info.encrypted);
	if (info.bits != 0)
		l_set(L, "bits", info.bits);
	return 1;
}

static const struct sign_alg *
l_check_alg(lua_State *L, int idx)
{
	return &sign_algs[L_CHECK_ROW(L, idx, sign_algs, "HS256, RS256, ES256 or one of their like expected")];
}

/* sign.signature(alg, key, data) -> string | secret | nil, code
 *
 * The raw signature, for ES256 and ES384 R and S (RFC 7518 3.4). alg: HS256, HS384, HS512, RS256,
 * RS384, RS512, ES256 or ES384. Codes: see lua/keys.lua. */
static int
l_sign_signature(lua_State *L)
{
	const struct sign_alg *a = l_check_alg(L, 1);
	bool is_secret = false;
	/* an HMAC key may be any value, since nothing in it is parsed */
	struct slice key = (a->kind == SIGN_HMAC ? l_check_value : l_check_key)(L, 2, &is_secret);
	struct slice data = l_check_value(L, 3, &is_secret);
	struct buf *b = l_text(L, is_secret, SIGN_MAX);
	unsigned char sig[SIGN_MAX];
	size_t n = 0;
	const char *why = sign_make(a, key, data, sig, &n);

	buf_add(b, sig, n);
	wipe(sig, sizeof sig);
	return why != NULL ? l_fail(L, why) : l_text_push(L);
}

/* sign.verify(alg, a, b, data, signature) -> bool
 *
 * Is it a signature of the data by that public key (RFC 7518 3.3, 3.4)? a, b: modulus and exponent, or
 * a point's coordinates, raw as a JWK has them in Base64. RSA: 2,048 to 4,096 bits. */
static int
l_sign_verify(lua_State *L)
{
	const struct sign_alg *alg = l_check_alg(L, 1);
	struct slice a = l_check_slice(L, 2), b = l_check_slice(L, 3), sig = l_check_slice(L, 5);
	unsigned char hash[SIGN_DIGEST_MAX], back[SIGN_DIGEST_MAX], key[1 + 512 + 8] = {4};
	br_rsa_public_key rsa = {key + 1, a.n, key + 1 + a.n, b.n};
	br_ec_public_key ec = {alg->curve, key, 1 + alg->n};
	bool ok = false;

	sign_digest(alg->hash, l_check_slice(L, 4), hash);
	if (a.n > 512 || b.n > 8 + (alg->kind == SIGN_EC ? alg->n : 0) || alg->kind == SIGN_HMAC)
		return l_answer(L, false);
	memcpy(key + 1, a.p, a.n);
	memcpy(key + 1 + a.n, b.p, b.n);
	if (alg->kind == SIGN_EC && a.n == alg->n / 2 && b.n == a.n && sig.n == alg->n)
		ok = br_ecdsa_vrfy_raw_get_default()(br_ec_get_default(), hash, alg->hash->n, &ec, sig.p, sig.n) == 1;
	else if (alg->kind == SIGN_RSA && a.n >= 256 && sig.n == a.n)
		ok = br_rsa_pkcs1_vrfy_get_default()((const unsigned char *)sig.p, sig.n, alg->oid, alg->hash->n,
		    &rsa, back) == 1 && memcmp(hash, back, alg->hash->n) == 0;
	return l_answer(L, ok);
}

/* sign.public_key(key) -> SubjectPublicKeyInfo in DER, a string | nil, code
 *
 * Not a secret: providers show its SHA-256 as the key's fingerprint. Codes: see lua/keys.lua. */
static int
l_sign_public_key(lua_State *L)
{
	bool is_secret = false;
	struct slice key = l_check_key(L, 1, &is_secret);
	uint8_t room[SIGN_SPKI_MAX];
	struct der d = {room, room + sizeof room};
	const char *why = key_public(key, &d);

	if (why != NULL)
		return l_fail(L, why);
	return l_one(L, ((struct slice){(const char *)d.at, (size_t)(room + sizeof room - d.at)}));
}

/* -- secret: a handle's events */

/* a .. b -> secret
 *
 * One of both is a secret, the other a string, a number or a secret. */
static int
l_secret_concat(lua_State *L)
{
	struct slice part[2];
	bool is_secret = false;

	for (int i = 0; i < 2; i++)
		if (!l_part_slice(L, i + 1, &part[i], &is_secret))
			return luaL_error(L, "attempt to concatenate a %s value with a secret",
			    luaL_typename(L, i + 1));
	buf_join(l_text(L, true, part[0].n + part[1].n), part, 2);
	return l_text_push(L);
}

/* Raises for every event that would tell of a secret; the upvalue is the rest of the message. */
static int
l_secret_refuse(lua_State *L)
{
	lua_Debug at;

	lua_pushliteral(L, "");
	/* tostring and format are C: the line is that of whoever called them. */
	for (int level = 1; lua_rawlen(L, -1) == 0 && lua_getstack(L, level, &at); level++) {
		lua_pop(L, 1);
		luaL_where(L, level);
	}
	lua_pushfstring(L, "a secret %s", lua_tostring(L, lua_upvalueindex(1)));
	lua_concat(L, 2);
	return lua_error(L);
}

static const struct { const char *event, *why; } l_secret_refused[] = {
	{"__tostring", "cannot be turned into a string"}, {"__len", "does not tell its length"},
	{"__eq", "cannot be compared"}, {"__lt", "cannot be compared"}, {"__le", "cannot be compared"},
	{"__pairs", "cannot be looked into"}, {"__newindex", "cannot be changed"}, {"__call", "cannot be called"},
};

static int
l_secret_gc(lua_State *L)
{
	secret_handle_empty(l_check_handle(L, 1));
	return 0;
}

/* secret.is(x) -> boolean
 *
 * Is x a handle, even an empty one? */
static int l_secret_is(lua_State *L) { return l_answer(L, l_test_type(L, 1, &l_type_secret) != NULL); }

/* reach(secret, made) -> "heads and bodies" | "heads" | nil
 *
 * Where answers are searched for it. made: by a machine. */
static int
l_secret_reach(lua_State *L)
{
	struct secret *s = *(struct secret **)l_check_handle(L, 1);
	struct scrub_value v = {.value = secret_slice(s), .made = lua_toboolean(L, 2)};

	return l_one(L, scrub_seeks(&v, true) ? "heads and bodies" : scrub_seeks(&v, false) ? "heads" : NULL);
}

static void
l_push_decoded(lua_State *L, struct slice in, enum pct mode)
{
	luaL_Buffer b;
	char *p = luaL_buffinitsize(L, &b, in.n);

	luaL_pushresultsize(&b, pct_decode(p, in.n, in, mode));
}

/* -- json: reading */

static void
l_json_push_string(lua_State *L, const struct json_token *t)
{
	struct slice in = json_inside(t);
	luaL_Buffer b;

	if (!t->escaped) {
		lua_pushlstring(L, in.p, in.n);
		return;
	}
	luaL_pushresultsize(&b, json_unescape(luaL_buffinitsize(L, &b, in.n), t));
}

/* Pushes a number. False: nothing was pushed, for `in` is no number or out of range. */
static bool
l_json_push_number(lua_State *L, struct slice in)
{
	int64_t integer;
	double real;
	enum json_number kind = json_number(in, &integer, &real);

	if (kind == JSON_INTEGER)
		lua_pushinteger(L, integer);
	else if (kind == JSON_REAL)
		lua_pushnumber(L, real);
	return kind != JSON_NOT_A_NUMBER;
}

/* Values nest. */
static const char *l_json_push(lua_State *L, struct json_reader *r, const struct json_token *t);

static const char *
l_json_push_array(lua_State *L, struct json_reader *r)
{
	struct json_token t;
	const char *why;

	lua_newtable(L);
	luaL_setmetatable(L, L_JSON_ARRAY);  /* so that an empty one is written as [] again */
	for (lua_Integer i = 1; json_next(r, &t) != JSON_CLOSE; i++) {
		if ((why = l_json_push(L, r, &t)) != NULL)
			return why;
		lua_rawseti(L, -2, i);
	}
	return NULL;
}

static const char *
l_json_push_object(lua_State *L, struct json_reader *r)
{
	struct json_token t;
	const char *why;

	lua_newtable(L);
	while (json_next(r, &t) != JSON_CLOSE) {
		if (t.type != JSON_KEY)
			return "malformed";
		l_json_push_string(L, &t);
		lua_pushvalue(L, -1);
		if (lua_rawget(L, -3) != LUA_TNIL)
			return "duplicate";     /* RFC 8259 4: readers disagree which counts */
		lua_pop(L, 1);
		json_next(r, &t);
		if ((why = l_json_push(L, r, &t)) != NULL)
			return why;
		lua_rawset(L, -3);
	}
	return NULL;
}

/* Pushes the value that begins with t. NULL, or a code; the caller then clears the stack. */
static const char *
l_json_push(lua_State *L, struct json_reader *r, const struct json_token *t)
{
	luaL_checkstack(L, 6, NULL);
	switch (t->type) {
	case JSON_NULL:
		lua_pushlightuserdata(L, NULL);         /* json.null: no table holds nil */
		return NULL;
	case JSON_FALSE:
	case JSON_TRUE:
		lua_pushboolean(L, t->type == JSON_TRUE);
		return NULL;
	case JSON_NUMBER:
		return l_json_push_number(L, t->raw) ? NULL : "number";
	case JSON_STRING:
		l_json_push_string(L, t);
		return NULL;
	case JSON_ARRAY:
		return l_json_push_array(L, r);
	case JSON_OBJECT:
		return l_json_push_object(L, r);
	case JSON_BAD:
	case JSON_END:
	case JSON_KEY:
	case JSON_CLOSE:
		break;
	}
	return "malformed";
}

/* Pushes what the text says. NULL, or a code, and nothing was pushed. *at: where reading ended. */
static const char *
l_json_read(lua_State *L, struct slice text, size_t *at)
{
	struct json_reader r;
	struct json_token t;
	const char *why;
	int top = lua_gettop(L);

	json_open(&r, text);
	json_next(&r, &t);
	why = l_json_push(L, &r, &t);
	if (why == NULL && json_next(&r, &t) != JSON_END)
		why = "malformed";
	if (why != NULL)
		lua_settop(L, top);
	*at = r.at;
	return why;
}

/* json.decode(s) -> value | nil, "malformed" | "duplicate" | "number", byte
 *
 * null is json.null. An integer that fits 64 bits is an integer. An array is marked as json.array
 * does. "number": more than 128 bytes, or out of a double's range. byte: where reading ended, from
 * 1. A secret document is read by core.expect. */
static int
l_json_decode(lua_State *L)
{
	size_t at;
	const char *why = l_json_read(L, l_check_slice(L, 1), &at);

	return why == NULL ? 1 : l_three(L, L_NIL, why, at + 1);
}

/* -- json: members of a response, and of a secret document */

/* Pushes a string token as a secret. */
static void
l_json_push_secret(lua_State *L, const struct json_token *t)
{
	json_unescape(l_text_room(L, true, json_unescape(NULL, t)), t);
	l_text_push(L);
}

static const char *const l_expect_names[] = {
	"secret", "number", "string", "code", "boolean", "type", "text", "sealed", "plain", NULL,
};
enum l_expect {
	L_EXPECT_SECRET, L_EXPECT_NUMBER, L_EXPECT_STRING, L_EXPECT_CODE, L_EXPECT_BOOLEAN, L_EXPECT_TYPE,
	L_EXPECT_TEXT, L_EXPECT_SEALED, L_EXPECT_PLAIN,
};

/* Pushes the value of an expected member, or nil where it is not of its kind: to callers an
 * expires_in that is no number is absent. */
static void
l_json_push_expected(lua_State *L, const struct json_token *t, enum l_expect kind)
{
	char text[JSON_STRING_MAX];
	size_t n;

	if (kind == L_EXPECT_PLAIN)
		kind = t->type == JSON_STRING ? L_EXPECT_STRING :
		    t->type == JSON_NUMBER ? L_EXPECT_NUMBER : L_EXPECT_BOOLEAN;
	switch (kind) {
	case L_EXPECT_PLAIN:
		break;
	case L_EXPECT_SECRET:
		if (t->type == JSON_STRING && t->raw.n > 2)     /* more than its quotes */
			return l_json_push_secret(L, t);
		break;
	case L_EXPECT_NUMBER:
		/* some servers quote expires_in (DESIGN, "Token lifecycle") */
		if (l_json_push_number(L, t->type == JSON_STRING ? json_inside(t) : t->raw))
			return;
		break;
	case L_EXPECT_CODE:
	case L_EXPECT_STRING:
		n = json_clean_string(text, t);
		if (n == SIZE_MAX && (kind == L_EXPECT_STRING || t->type == JSON_NULL))
			break;
		lua_pushlstring(L, text, n == SIZE_MAX ? 0 : n);
		return;
	case L_EXPECT_BOOLEAN:
		if (t->type != JSON_TRUE && t->type != JSON_FALSE)
			break;
		lua_pushboolean(L, t->type == JSON_TRUE);
		return;
	case L_EXPECT_TYPE:
		lua_pushstring(L, t->type == JSON_NULL ? NULL : t->type == JSON_STRING ? "string" : "other");
		return;
	case L_EXPECT_TEXT:
		if (t->type == JSON_STRING)
			l_json_push_string(L, t);
		else
			l_push_slice(L, t->raw);
		return;
	case L_EXPECT_SEALED:
		if (t->type == JSON_STRING)
			l_json_push_secret(L, t);
		else
			l_push_secret_copy(L, t->raw);
		return;
	}
	lua_pushnil(L);
}

#define L_EXPECT_DEEP_MAX (64u << 10)    /* text is read once for each object on the way: STS answers 2 KiB */

/* json_members, and then those whose names are dotted paths. */
static enum json_result
json_members_deep(struct slice body, struct json_member *want, size_t n)
{
	enum json_result res = json_members(body, want, n);

	for (size_t i = 0; i < n && res == JSON_OK; i++) {
		struct slice left = want[i].name;
		struct json_member one = {.value = {.type = JSON_OBJECT, .raw = body}};

		if (want[i].value.type != JSON_END || memchr(left.p, '.', left.n) == NULL)
			continue;
		if (body.n > L_EXPECT_DEEP_MAX)
			return JSON_MALFORMED;
		for (; left.n != 0 && res == JSON_OK && one.value.type == JSON_OBJECT; want[i].value = one.value) {
			one.name = slice_cut(&left, '.');
			res = json_members(one.value.raw, &one, 1);
		}
		if (left.n != 0)        /* what is on the way is no object */
			want[i].value.type = JSON_END;
	}
	return res;
}

/* Takes a plain member out of the table on top if it is a string that holds a secret one. */
static void
l_expect_apart(lua_State *L, struct slice plain, struct slice secret)
{
	int t = lua_gettop(L);
	struct slice text = {NULL, 0};

	l_push_slice(L, plain);
	if (lua_rawget(L, t) == LUA_TSTRING)
		text.p = lua_tolstring(L, -1, &text.n);
	l_push_slice(L, secret);
	if (lua_rawget(L, t) != LUA_TNIL && slice_has(text, l_check_secret(L, -1))) {
		l_push_slice(L, plain);
		lua_pushnil(L);
		lua_rawset(L, t);
	}
	lua_settop(L, t);
}

/* Reads members of a response body or a secret document; the table at `idx` is { member = kind }.
 * Pushes { member = value } (1), or nil and "malformed", "not_object" or "duplicate" (2).
 *   secret   a string that is not empty, as a handle; one with control bytes makes the body malformed
 *   string   at most 4 KiB, without control characters
 *   number   also in quotes
 *   boolean
 *   code     for lua/oauth.lua: a string, or "" for any other value but null
 *   type     "string" or "other"; nil for null
 *   text     a string, or the JSON text of any other value
 *   sealed   as text, in a handle
 *   plain    a string (as above) in which no secret of this answer stands, a number or a boolean
 * "A.B" is the member B of the object A. */
static int
l_json_expect(lua_State *L, struct slice body, int idx)
{
	struct json_member want[L_EXPECT_MAX] = {0};
	enum l_expect kind[L_EXPECT_MAX];
	enum json_result res;
	size_t n = 0;

	idx = lua_absindex(L, idx);
	luaL_checkstack(L, 8, NULL);
	luaL_checktype(L, idx, LUA_TTABLE);
	for (lua_pushnil(L); lua_next(L, idx); lua_pop(L, 1)) {
		if (lua_type(L, -2) != LUA_TSTRING || n == L_EXPECT_MAX)
			return luaL_error(L, "expect: at most %d members, by name", L_EXPECT_MAX);
		want[n].name.p = lua_tolstring(L, -2, &want[n].name.n);
		kind[n++] = (enum l_expect)luaL_checkoption(L, -1, NULL, l_expect_names);
	}
	if ((res = json_members_deep(body, want, n)) != JSON_OK)
		return l_fail(L, json_codes[res]);
	lua_createtable(L, 0, (int)n);
	for (size_t i = 0; i < n; i++) {
		if (want[i].value.type == JSON_END)
			continue;
		lua_pushlstring(L, want[i].name.p, want[i].name.n);
		l_json_push_expected(L, &want[i].value, kind[i]);
		if (kind[i] == L_EXPECT_SECRET && !lua_isnil(L, -1)) {
			struct slice s = l_check_secret(L, -1);

			/* such a token would be kept, and fail each request that it is set on */
			if (!http_valid_field_value(s) || memchr(s.p, '\t', s.n) != NULL) {
				lua_pop(L, 3);
				return l_fail(L, "malformed");
			}
		}
		lua_rawset(L, -3);
	}
	for (size_t i = 0; i < n * n; i++)
		if (kind[i / n] == L_EXPECT_PLAIN && kind[i % n] == L_EXPECT_SECRET)
			l_expect_apart(L, want[i / n].name, want[i % n].name);
	return 1;
}

/* -- secret.core: what the runtime may do and a policy may not */

/* core.of(string) -> secret
 *
 * For a value that a person typed into a test or an example: the string stays in Lua. */
static int l_core_of(lua_State *L) { return l_push_secret_copy(L, l_check_slice(L, 1)); }

/* FNV-1a of the credential's name, never 0; 0: no credential. */
static uint64_t
l_owner(lua_State *L, int idx)
{
	struct slice name = {"", 0};
	uint64_t h = 14695981039346656037u;

	if (lua_isnoneornil(L, idx))
		return 0;
	name = l_check_text(L, idx);
	for (size_t i = 0; i < name.n; i++)
		h = (h ^ (unsigned char)name.p[i]) * 1099511628211u;
	return h | 1;
}

/* core.acting(credential | nil)
 *
 * From now on this task may use the handles that core.keep bound to that credential, and of no
 * other. */
static int
l_core_acting(lua_State *L)
{
	uint64_t owner = l_owner(L, 1);

	if (secret_scope_now != NULL)
		secret_scope_now->owner = owner;
	return 0;
}

/* core.keep(h [, credential]) -> h
 *
 * The handle outlives the task that made it, and counts as a field. With a credential's name, only
 * a task that acts for that credential may use it. */
static int
l_core_keep(lua_State *L)
{
	struct secret_handle *h = l_check_handle(L, 1);

	h->owner = l_owner(L, 2);
	h->field = true;
	secret_handle_keep(h);
	lua_settop(L, 1);
	return 1;
}

/* core.as_field(h) -> h
 *
 * The handle counts as a field, not as built: sign reads it as a key. */
static int
l_core_as_field(lua_State *L)
{
	l_check_handle(L, 1)->field = true;
	lua_settop(L, 1);
	return 1;
}

/* core.join{ part, … } -> string | secret
 *
 * Strings, numbers and secrets, one behind the other. A secret as soon as one part is. */
static int
l_core_join(lua_State *L)
{
	struct buf *b = l_text(L, false, 0);
	lua_Integer n;

	luaL_checktype(L, 1, LUA_TTABLE);
	n = (lua_Integer)lua_rawlen(L, 1);
	for (lua_Integer i = 1; i <= n && buf_ok(b); i++, lua_pop(L, 1)) {
		bool is_secret = false;
		struct slice s;

		lua_rawgeti(L, 1, i);
		if (!l_part_slice(L, -1, &s, &is_secret))
			return luaL_error(L, "a part is no string, number or secret");
		if (is_secret)
			buf_make_secret(b);
		buf_addv(b, s);
	}
	return l_text_push(L);
}

/* core.expect(document, { member = kind }) -> { member = value } | nil, code
 *
 * document is a secret. Kinds and codes: see l_json_expect. */
static int l_core_expect(lua_State *L) { return l_json_expect(L, l_check_secret(L, 1), 2); }

/* core.names(document) -> { name… } | nil, "malformed"
 *
 * The names of the members of a secret JSON object, in their order. */
static int
l_core_names(lua_State *L)
{
	struct json_reader r;
	struct json_token t;

	json_open(&r, l_check_secret(L, 1));
	if (json_next(&r, &t) != JSON_OBJECT)
		return l_fail(L, "malformed");
	lua_newtable(L);
	while (json_next(&r, &t) > JSON_END)
		if (t.type == JSON_KEY && t.depth == 1) {
			l_json_push_string(L, &t);
			lua_rawseti(L, -2, (lua_Integer)lua_rawlen(L, -2) + 1);
		}
	return t.type == JSON_END ? 1 : l_fail(L, "malformed");
}

/* -- Signature Version 4: the arguments of view:sigv4 */
struct l_sigv4 {
	struct slice access_key, secret, token, region, service, payload, region_set, listed, expires;
	bool query;             /* a presigned URL */
	bool s3;                /* its path neither normalised nor encoded again */
	bool hash_header;       /* x-amz-content-sha256 goes out, and is signed */
	bool token_after;       /* the token joins a presigned URL unsigned: AWS IoT wants it so */
	bool at;                /* is there an `at`: Unix seconds in place of now? */
	struct sigv4_scope scope;
};

/* Raises for a member that nobody reads: a misspelt one would be left out of what is signed. The texts are borrowed
 * from the table. */
static void
l_sigv4_read(lua_State *L, int table, struct l_sigv4 *o)
{
#define MEMBER(name, member, flag) {name, offsetof(struct l_sigv4, member), flag}
	static const struct { const char *name; size_t at; bool flag; } members[] = {
		MEMBER("access_key", access_key, 0), MEMBER("secret", secret, 0), MEMBER("token", token, 0),
		MEMBER("region", region, 0), MEMBER("service", service, 0), MEMBER("payload", payload, 0),
		MEMBER("region_set", region_set, 0), MEMBER("signed", listed, 0), MEMBER("expires", expires, 0),
		MEMBER("query", query, 1), MEMBER("s3", s3, 1), MEMBER("hash_header", hash_header, 1),
		MEMBER("token_after", token_after, 1), MEMBER("at", at, 1),
	};
#undef MEMBER
	bool is_secret = false;

	luaL_checktype(L, table, LUA_TTABLE);
	*o = (struct l_sigv4){.at = false};
	for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
		const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
		size_t i = 0;

		while (i < COUNT(members) && strcmp(members[i].name, name) != 0)
			i++;
		if (i == COUNT(members))
			luaL_error(L, "sigv4: there is no member %s", name);
		if (members[i].flag)
			*(bool *)((char *)o + members[i].at) = lua_toboolean(L, -1);
		else if (!l_value_slice(L, -1, (struct slice *)(void *)((char *)o + members[i].at), &is_secret))
			luaL_error(L, "sigv4: %s is a string or a secret", name);
	}
	if (!sigv4_word_ok(o->access_key, true) || o->secret.n == 0)
		luaL_error(L, "sigv4: access_key or secret is missing or malformed");
	if (!sigv4_scope_init(&o->scope, l_integer(L, table, "at", clock_wall()), o->region, o->service,
	    o->region_set.p != NULL))
		luaL_error(L, "sigv4: region or service is missing or malformed");
}

/* Signs. `key` gets the derived key, for the chunks' signatures; the caller wipes it. */
static bool
sigv4_make(const struct l_sigv4 *o, const struct sigv4_request *r, unsigned char key[SIGV4_KEY],
    char signature[SIGV4_SIGNATURE_MAX + 1])
{
	char string[SIGV4_STRING_MAX];
	struct buf canonical;
	bool ok;

	buf_init(&canonical, SIGV4_CANONICAL_MAX);
	sigv4_canonical(r, &canonical);
	ok = buf_ok(&canonical) && sigv4_key(o->secret, o->access_key, &o->scope, key);
	if (ok) {
		struct slice s = {string, sigv4_string(string, &o->scope, buf_slice(&canonical))};

		ok = sigv4_sign(&o->scope, key, s, signature);
	}
	buf_free(&canonical);
	return ok;
}

/* -- openers: functions of each module, and what more its table has, which is on top */

static const luaL_Reg l_secret_functions[] = {
	{"sha256", l_sign_sha256}, {"hmac", l_secret_hmac}, {"decode", l_secret_decode}, {"is", l_secret_is}, {NULL, NULL},
};

/* Adds to the table on top the functions that take handles and strings alike. */
static void
l_secret_add(lua_State *L)
{
	luaL_setfuncs(L, l_secret_functions, 0);
	for (size_t i = 0; i < COUNT(codecs); i++) {
		lua_pushlightuserdata(L, (void *)(uintptr_t)&codecs[i]);
		lua_pushcclosure(L, l_secret_code, 1);
		lua_setfield(L, -2, codecs[i].name);
	}
}

/* core.begins(x, prefix) -> boolean
 *
 * Does x begin with a prefix that its kind has in public? No policy may ask. */
static int
l_core_begins(lua_State *L)
{
	bool is_secret = false;
	struct slice in = l_check_value(L, 1, &is_secret), prefix = l_check_slice(L, 2);

	return lua_now.co == NULL ? l_answer(L, in.n >= prefix.n && memcmp(in.p, prefix.p, prefix.n) == 0) :
	    luaL_error(L, "a secret cannot be compared");
}

static const luaL_Reg l_core_functions[] = {
	{"of", l_core_of}, {"begins", l_core_begins}, {"keep", l_core_keep}, {"acting", l_core_acting},
	{"as_field", l_core_as_field}, {"join", l_core_join}, {"reach", l_secret_reach}, {"expect", l_core_expect},
	{"names", l_core_names},
	{NULL, NULL},
};

static void
l_open_secret_core(lua_State *L)
{
	/* not by l_metatable, for __close: a policy would end a handle that others share */
	luaL_newmetatable(L, l_type_secret.name);
	l_type_secret.meta = lua_topointer(L, -1);
	for (size_t i = 0; i < COUNT(l_secret_refused); i++) {
		lua_pushstring(L, l_secret_refused[i].why);
		lua_pushcclosure(L, l_secret_refuse, 1);
		lua_setfield(L, -2, l_secret_refused[i].event);
	}
	lua_newtable(L);
	l_secret_add(L);
	l_no_other(L, "a secret has no '", "'");
	lua_setfield(L, -2, "__index");
	lua_pushcfunction(L, l_secret_concat);
	lua_setfield(L, -2, "__concat");
	l_set(L, "__metatable", "secret");
	lua_pushcfunction(L, l_secret_gc);
	lua_setfield(L, -2, "__gc");
	lua_pop(L, 1);
	l_secret_add(L);
}

static const luaL_Reg l_sign_functions[] = {
	{"sha256", l_sign_sha256}, {"digest", l_sign_digest}, {"pbkdf2", l_sign_pbkdf2}, /* yields */
	{"key_info", l_sign_key_info}, {"public_key", l_sign_public_key},
	{"signature", l_sign_signature}, {"verify", l_sign_verify}, {NULL, NULL},
};

static const luaL_Reg l_json_functions[] = {
	{"decode", l_json_decode}, {NULL, NULL},
};

static void
l_open_json(lua_State *L)
{
	luaL_newmetatable(L, L_JSON_ARRAY);
	l_set(L, "__metatable", "json.array");
	lua_setfield(L, -2, "list");    /* for lua/json.lua's array */
	lua_pushlightuserdata(L, NULL);
	lua_setfield(L, -2, "null");
}

/* ---- bind: store -----------------------------------------------------------
 * The Lua module store. A record reaches Lua as a table: its plain members, its `version`, and
 * handles for what is sealed. Invariant: no slice of the read transaction outlives the binding
 * that took it. The transaction ends with a worker's resume, and with a command's binding: a
 * command may wait at a prompt, and an open snapshot keeps old pages in the file. Skip it if you
 * know `store`, which every binding calls; the raw handles are for backup and restore alone. */
#define L_COMMIT_MS 10000       /* for a commit without a deadline */
#define L_EACH_MAX 4096         /* records of one page */
#define L_CHANGES_MAX 4096      /* pairs; beyond, building the index anew is as fast */
#define L_DERIVED 22            /* 130 bits: no two labels share one */

/* Ends the read transaction, in a command. Returns n. */
static int
l_store_return(int n)
{
	if (!job_threaded)
		store_read_reset();
	return n;
}

static int
l_fail_store(lua_State *L, enum store_err err)
{
	return l_store_return(l_fail(L, store_codes[err]));
}

static enum store_db
l_check_db(lua_State *L, int idx)
{
	return (enum store_db)L_CHECK_ROW(L, idx, store_dbs, "no such database");
}

/* -- opening. Results: true | nil, code, fault. fault = { place =, why =, n = } is struct
 * store_fault, of which db.why in lua/cli/db.lua makes a sentence. */

static int
l_store_answer(lua_State *L, enum store_err err)
{
	if (err == STORE_OK)
		return l_answer(L, true);
	l_fail(L, store_codes[err]);
	lua_newtable(L);
	l_set(L, "place", store_fault.place);   /* NULL: nil */
	l_set(L, "why", store_fault.why);
	if (store_fault.n >= 0)
		l_set(L, "n", store_fault.n);
	return 3;
}

/* store.open(home [, { keyless = bool }]) -> true
 *   | nil, "absent" | "not_owner" | "key_absent" | "key_mode" | "wrong_key" | "newer_format" |
 *   "damaged" | "full" | "busy" | "io" | …, fault
 *
 * For commands; C opens a worker's store. keyless: a missing or wrong key is no error; peek and each
 * work, nothing can be unsealed or written. */
static int
l_store_open(lua_State *L)
{
	store_fault = (struct store_fault){NULL, NULL, -1};
	return l_store_answer(L, store_open(luaL_checkstring(L, 1), l_flag(L, 2, "keyless") ? STORE_KEYLESS : STORE_WITH_KEY));
}

/* store.close()
 *
 * Closes whatever is open. The master calls this before it forks. */
static int
l_store_close(lua_State *L)
{
	store_close();
	return 0;
}

/* -- reading */

/* Pushes the plain members as a table. False: the text is no JSON object; behind a valid tag that
 * is a bug of ours. */
static bool
l_push_plain(lua_State *L, struct slice text)
{
	size_t at;

	return text.n != 0 && text.p[0] == '{' && l_json_read(L, text, &at) == NULL;
}

/* Pushes a record: its plain members, its version, id and epoch, and of each sealed field the handle
 * (`open`) or the name. */
static enum store_err
l_push_record(lua_State *L, enum store_db db, struct slice key, const struct store_record *r,
    bool open)
{
	enum store_err err = STORE_OK;
	struct slice seals = r->seals;
	struct store_seal s;
	char id[2 * STORE_ID];

	if (open && !r->verified)
		return STORE_LOCKED;
	if (!l_push_plain(L, r->plain))
		return STORE_DAMAGED;
	l_set(L, "version", r->version);
	hex_encode(id, r->id, STORE_ID);
	l_set(L, "id", ((struct slice){id, sizeof id}));
	l_set(L, "epoch", r->epoch);
	if (!r->verified)
		l_set(L, "unverified", (bool)true);
	if (r->nseals == 0)
		return STORE_OK;
	lua_newtable(L);
	for (int i = 1; seals.n != 0 && err == STORE_OK && store_seal_next(&seals, &s); i++) {
		lua_pushlstring(L, s.name.p, s.name.n);
		if (open) {
			err = store_unseal(db, key, &s, l_text_room(L, true, s.text.n));
			l_text_push(L);
			lua_rawset(L, -3);
		} else
			lua_rawseti(L, -2, i);
	}
	lua_setfield(L, -2, open ? "secrets" : "sealed");
	return err;
}

/* store.record(db, key, true) -> { plain members…, version = N, id = hex, epoch = N,
 *     secrets = { name = handle } | nil }
 * store.record(db, key, false)
 *   -> { plain members…, version = N, id = hex, epoch = N, sealed = { names } | nil,
 *     unverified = true | nil }
 *   | nil, "absent" | "damaged" | "locked" | …, why
 *
 * Lua's store.get and store.peek. "damaged": it is not what was written there last (why "older"), or it was
 * removed on the disk ("gone"), or the table of records does not list it ("unknown") or was changed there ("unsure"). The handles end with the task, but for those that core.keep keeps. id: of
 * this record, and of no other of the same name. epoch: another one once a secret, or the right to
 * use it, has changed. peek unseals nothing. `unverified`: the store was opened without its key, so
 * no tag was checked. */
static int
l_store_record(lua_State *L)
{
	enum store_db db = l_check_db(L, 1);
	struct slice key = l_check_slice(L, 2);
	struct store_record r = {.why = NULL};
	enum store_err err = store_read(db, key, &r);

	if (err == STORE_OK)
		err = l_push_record(L, db, key, &r, lua_toboolean(L, 3));
	return l_store_return(err == STORE_OK ? 1 : l_three(L, L_NIL, store_codes[err], r.why));
}

/* store.each(db, prefix [, after [, limit]])
 *   -> { { key =, record = as peek, damaged = why | "changed" | nil }, … } | nil, code
 *
 * A page of records, in order of keys: those whose keys begin with `prefix` and come after
 * `after`, at most `limit` (256 if absent, 4096 at most). A damaged record is not in its row. */
static int
l_store_each(lua_State *L)
{
	enum store_db db = l_check_db(L, 1);
	struct slice prefix, after, key;
	lua_Integer limit = luaL_optinteger(L, 4, 256);
	struct store_record r;
	enum store_err err;

	prefix.p = luaL_optlstring(L, 2, "", &prefix.n);
	after.p = luaL_optlstring(L, 3, "", &after.n);
	luaL_argcheck(L, limit >= 1 && limit <= L_EACH_MAX, 4, "limit is 1 to 4096");
	lua_createtable(L, limit < 64 ? (int)limit : 64, 0);
	for (lua_Integer i = 1; i <= limit; i++) {
		err = store_read_next(db, prefix, after, &key, &r);
		if (err == STORE_ABSENT)
			break;
		if (err != STORE_OK && err != STORE_DAMAGED)
			return l_fail_store(L, err);
		lua_createtable(L, 0, 2);
		lua_pushlstring(L, key.p, key.n);
		after.p = lua_tolstring(L, -1, &after.n);       /* lives in the table */
		lua_setfield(L, -2, "key");
		if (err == STORE_OK && l_push_record(L, db, key, &r, false) == STORE_OK)
			lua_setfield(L, -2, "record");
		else
			l_set(L, "damaged", r.why != NULL ? r.why : "changed");
		lua_rawseti(L, -2, i);
	}
	return l_store_return(1);
}

/* store.generation() -> config, state | nil, code
 *
 * The store's two generations: a commit moves the one that its databases belong to. */
static int
l_store_generation(lua_State *L)
{
	uint64_t config, state;

	if (!store_generations(&config, &state))
		return l_fail_store(L, store.env == NULL ? STORE_LOCKED : STORE_IO);
	return l_store_return(l_two(L, (lua_Integer)config, (lua_Integer)state));
}

/* store.changes(since) -> { db, key, db, key, … }, generation | nil, "rebuild", generation
 *   | nil, "damaged" | "locked" | …
 *
 * The records that were written after config generation `since`, which the last call answered. They
 * follow from the table of records, which nobody changes without the key. "rebuild": `since` is
 * another one, or there are too many. generation: up to where the caller knows all, once it has
 * looked at these records, or at all. */
static int
l_store_changes(lua_State *L)
{
	uint64_t since = (uint64_t)luaL_checkinteger(L, 1);
	lua_Integer n = 0;
	bool known = false;
	enum store_err err = store_follow(since, &known);

	if (err != STORE_OK)
		return l_fail_store(L, err);
	lua_newtable(L);
	for (struct slice rest = buf_slice(&store_seen.news); known && rest.n >= 3;) {
		size_t size = 3 + (size_t)load_be16(rest.p + 1);
		enum store_db db = DB_META;

		while (db < STORE_DBS - 1 && store_dbs[db].kind != rest.p[0])
			db++;
		lua_pushstring(L, store_dbs[db].name);
		lua_rawseti(L, -2, ++n);
		lua_pushlstring(L, rest.p + 3, size - 3);
		lua_rawseti(L, -2, ++n);
		rest = (struct slice){rest.p + size, rest.n - size};
	}
	buf_recycle(&store_seen.news, 0);
	if (!known || n > 2 * L_CHANGES_MAX)
		l_fail(L, "rebuild");
	lua_pushinteger(L, (lua_Integer)store_seen.config);
	return l_store_return(known && n <= 2 * L_CHANGES_MAX ? 2 : 3);
}

/* store.listed(db) -> { key… }, parts | nil, code
 *
 * The keys that the table of records lists. parts: how many parts of the whole table were changed, or had to begin anew
 * since; in those, nobody knows which records are gone. */
static int
l_store_listed(lua_State *L)
{
	char kind = store_dbs[l_check_db(L, 1)].kind;
	struct table *t = &store_seen;
	lua_Integer parts = 0, n = 0;
	struct table_entry e;
	bool known;
	enum store_err err = store_follow(t->base, &known);

	if (err != STORE_OK)
		return l_fail_store(L, err);
	lua_newtable(L);
	for (unsigned i = 0; i < TABLE_BUCKETS; i++) {
		const struct table_bucket *b = &t->bucket[i];

		parts += memcmp(&b->mac, &t->want[i], TABLE_MAC) != 0 ||
		    (b->bytes.n != 0 && b->bytes.p[0] == TABLE_LOST);
		for (struct slice rest = table_entries(&b->bytes); table_next(&rest, &e);)
			if (e.name.p[0] == kind) {
				lua_pushlstring(L, e.name.p + 3, e.name.n - 3);
				lua_rawseti(L, -2, ++n);
			}
	}
	return l_store_return(1 + l_one(L, parts));
}

/* store.placeholder(shape, label) -> text, stop | nil, "locked"
 *
 * The shape, its random parts derived of the label and the store's key. stop: where the longest of
 * these parts ends, in bytes. */
static int
l_store_placeholder(lua_State *L)
{
	char out[STORE_SHAPE_MAX];
	size_t n, stop;
	enum store_err err = store_placeholder(l_check_text(L, 1), l_check_text(L, 2), out, &n, &stop);

	if (err != STORE_OK)
		return l_fail_store(L, err);
	return l_two(L, ((struct slice){out, n}), stop);
}

/* store.derive(label) -> text | nil, "locked"
 *
 * 22 letters and digits of the label, a string or a secret, and the store's key: see store.mark in lua/store.lua. */
static int
l_store_derive(lua_State *L)
{
	char out[L_DERIVED];
	bool is_secret;
	enum store_err err = store_derive(l_check_value(L, 1, &is_secret), out, sizeof out);

	return err != STORE_OK ? l_fail_store(L, err) : l_one(L, ((struct slice){out, sizeof out}));
}

/* -- committing */

/* A commit while Lua can raise, and while the task waits. */
struct l_commit {
	struct wait wait;
	struct store_batch *batch;      /* owned until the commit starts */
	struct store_commit *commit;    /* from the start on; freed here once it is done */
};

/* A commit that has begun goes on without its owner. */
static void
l_commit_drop(struct wait *w)
{
	struct l_commit *h = (struct l_commit *)w;

	store_batch_free(h->batch);
	if (w->done)
		store_commit_free(h->commit);
	else if (h->commit != NULL)
		h->commit->wait = NULL;
}

static void
l_check_batch(lua_State *L, enum store_err err)
{
	if (err != STORE_OK)
		luaL_error(L, "an operation cannot be prepared: %s", store_codes[err]);
}

/* Adds the secrets of the table on top. */
static void
l_batch_secrets(lua_State *L, struct store_batch *b)
{
	int table = lua_gettop(L);
	struct secret *s;

	luaL_checktype(L, table, LUA_TTABLE);
	for (lua_pushnil(L); lua_next(L, table) != 0; lua_pop(L, 1)) {
		struct slice name = l_check_slice(L, -2);

		if (lua_isboolean(L, -1) && !lua_toboolean(L, -1))
			l_check_batch(L, store_batch_drop(b, name));    /* it goes, in spite of `keep` */
		else if ((s = l_test_secret(L, -1)) != NULL)
			l_check_batch(L, store_batch_secret(b, name, s->p, s->n));
		else
			luaL_error(L, "secret '%s' is no secret", name.p);
	}
}

/* Adds the operation whose row is on top; the row stays. */
static void
l_batch_op(lua_State *L, struct store_batch *b)
{
	static const char *const kinds[] = {
		[OP_PUT] = "put", [OP_DEL] = "del", [OP_CHECK] = "check", NULL,
	};
	int op = lua_gettop(L), kind;
	lua_Integer room;
	uint64_t version;
	enum store_db db;
	struct slice key;

	luaL_checkstack(L, 16, NULL);
	luaL_checktype(L, op, LUA_TTABLE);
	for (int i = 1; i <= 9; i++)
		lua_geti(L, op, i);
	kind = luaL_checkoption(L, op + 1, NULL, kinds);
	db = l_check_db(L, op + 2);
	key = l_check_slice(L, op + 3);
	version = lua_isnil(L, op + 4) ? STORE_ANY : (uint64_t)luaL_checkinteger(L, op + 4);
	if (kind == OP_CHECK && version == STORE_ANY)
		luaL_error(L, "a check has a version");
	if (kind == OP_PUT) {
		room = luaL_optinteger(L, op + 6, 0);
		if (room < 0 || room > STORE_PLAIN_MAX)
			luaL_error(L, "room is out of bounds");
		l_check_batch(L, store_batch_put(b, db, key, l_check_slice(L, op + 5), version, lua_toboolean(L, op + 7), (uint32_t)room));
		b->op[b->n - 1].fresh = lua_toboolean(L, op + 8);
		b->op[b->n - 1].moves = lua_toboolean(L, op + 9);
		if (lua_geti(L, op, 10) != LUA_TNIL)
			l_batch_secrets(L, b);
	} else {
		l_check_batch(L, store_batch_op(b, (enum store_op_kind)kind, db, key, version));
	}
	lua_settop(L, op);
}

static int
l_commit_answer(lua_State *L, enum store_err err, uint64_t version)
{
	if (err != STORE_OK)
		return l_fail(L, store_codes[err]);
	return l_two(L, (bool)true, version);
}

static int
l_commit_push(lua_State *L, bool late)
{
	struct l_commit *h = lua_touserdata(L, 3);

	if (h->wait.done)
		return l_commit_answer(L, h->commit->err, h->commit->batch->version);
	if (!late)
		return -1;
	return l_three(L, L_NIL, store_codes[STORE_TIMEOUT], (bool)!store_commit_cancel(h->commit));
}

/* store.commit(ops [, deadline]) -> true, version
 *   | nil, "conflict" | "full" | "damaged" | "io" | "locked" | …
 *   | nil, "timeout", begun
 *
 * Applies all operations or none; they are on the disk when this returns true. ops =
 *   { { "put", db, key, version, text (JSON), room, keep, fresh, moves, { name = secret | false } },
 *     { "del", db, key, version }, { "check", db, key, version } }
 * version: the record's version before the commit (0: there is none; nil: any, even of a damaged
 * record). keep: sealed fields that `secrets` does not name stay; false takes one away. room: a
 * later put of that many bytes over this record finds room on a full disk. moves: the record gets
 * another epoch, as a credential does whose secrets change; fresh: it is another record of the same
 * name, with an id and an epoch of its own. lua/store.lua makes the text. deadline: monotonic ms.
 * After a timeout with begun = false the commit is never applied; with begun = true it may reach
 * the disk at any moment. Yields. */
static int
l_store_commit(lua_State *L)
{
	int64_t deadline = luaL_optinteger(L, 2, clock_now() + L_COMMIT_MS);
	struct store_batch *b;
	struct l_commit *h;
	enum store_err err;

	luaL_checktype(L, 1, LUA_TTABLE);
	h = l_wait_new(L, sizeof *h, l_commit_drop);
	lua_pushinteger(L, deadline);
	lua_replace(L, 2);
	if (store.env == NULL || store.keys == NULL)
		return l_fail(L, store_codes[STORE_LOCKED]);
	if ((b = h->batch = store_batch_new()) == NULL)
		return l_fail(L, store_codes[STORE_MEMORY]);
	L_EACH(L, 1, i)
		l_batch_op(L, b);
	if (!job_threaded) {
		err = store_commit_now(b, deadline);
		return l_commit_answer(L, err, b->version);
	}
	if (h->wait.task == NULL || !lua_isyieldable(L))
		return luaL_error(L, "cannot wait here");
	h->batch = NULL;
	if ((h->commit = store_commit_start(b, deadline, &h->wait)) == NULL)
		return l_fail(L, store_codes[STORE_MEMORY]);
	return l_wait(L, l_commit_push);
}

/* -- raw handles: bytes as they lie on the disk, for backup and restore (lua/cli/archive.lua has
 * the stream's layout), and for `doctor --accept`. A handle is a snapshot of the open store, or the
 * one transaction that replaces a store's content. Records stay sealed: only the wrapped data key and a record's plain
 * part are read. */
static struct l_type l_type_raw = {.name = "sallyport.raw"};

struct l_raw {
	MDB_txn *txn;           /* owned; NULL: not begun, or over */
	struct secret *keys;    /* owned */
	br_hmac_context mac;    /* under keys->stream, over the texts of raw:mac */
	bool replaces;          /* raw:begin was called */
};

static void
raw_mac_init(struct l_raw *r)
{
	br_hmac_init(&r->mac, &store_keys_of(r->keys)->stream, 0);
}

static int
l_raw_gc(lua_State *L)
{
	struct l_raw *r = l_check_type(L, 1, &l_type_raw);

	if (r->txn != NULL)
		mdb_txn_abort(r->txn);
	if (r->replaces)
		store_close();          /* drops the writer's lock too */
	secret_unref(r->keys);
	wipe(r, sizeof *r);
	return 0;
}

/* store.snapshot() -> raw | nil, code, fault
 *
 * The open store as it is now. Later commits do not wait for the snapshot. */
static int
l_store_snapshot(lua_State *L)
{
	struct l_raw *r = l_new(L, sizeof *r, 0, &l_type_raw);
	enum store_err err = STORE_LOCKED;

	if (store.env != NULL && store.keys != NULL)
		err = store_err_of(mdb_txn_begin(store.env, NULL, MDB_RDONLY, &r->txn));
	if (err != STORE_OK)
		return l_store_answer(L, err);
	r->keys = secret_ref(store.keys);
	raw_mac_init(r);
	return 1;
}

/* store.datakey(home) -> the wrapped data key of a store that is made anew | nil, code, fault
 *
 * HOME/key wraps it, and is made where it is absent: its name is to be synced before anything is committed. */
static int
l_store_datakey(lua_State *L)
{
	const char *home = luaL_checkstring(L, 1);
	uint8_t kek[32], data[32], blob[DATAKEY_LEN];
	enum store_err err;

	store_fault = (struct store_fault){NULL, NULL, -1};
	if ((err = store_key_read(home, kek)) == STORE_KEY_ABSENT)
		err = store_key_make(home, kek);
	if (err == STORE_OK && !(rand_bytes(data, sizeof data) && store_datakey_wrap(kek, data, blob)))
		err = STORE_IO;
	wipe(kek, sizeof kek);
	wipe(data, sizeof data);
	return err != STORE_OK ? l_store_answer(L, err) : l_one(L, ((struct slice){(char *)blob, sizeof blob}));
}

/* store.replace() -> raw
 *
 * Closes the store; nothing on the disk changes before raw:begin and raw:commit. */
static int
l_store_replace(lua_State *L)
{
	l_new(L, sizeof(struct l_raw), 0, &l_type_raw);
	store_close();
	return 1;
}

/* raw:unlock(home [, datakey]) -> true | nil, "key_absent" | "wrong_key" | "other_store" | …, fault
 *
 * Opens the wrapped data key, or that of the store that is begun, with HOME/key. "other_store": it is another one than
 * the handle has. What is begun is from then on under this key. */
static int
l_raw_unlock(lua_State *L)
{
	struct l_raw *r = l_check_type(L, 1, &l_type_raw);
	struct slice datakey = lua_isnoneornil(L, 3) ? NO_SLICE : l_check_slice(L, 3);
	struct secret *keys = NULL;
	enum store_err err = STORE_OK;

	luaL_argcheck(L, datakey.p != NULL || r->txn != NULL, 1, "not begun");
	store_fault = (struct store_fault){NULL, NULL, -1};
	if (datakey.p == NULL)
		err = store_check_format(r->txn, &datakey);
	if (err == STORE_OK)
		err = store_unlock_keys(luaL_checkstring(L, 2), datakey, &keys);
	if (err == STORE_OK && r->keys == NULL) {
		r->keys = secret_ref(keys);
		raw_mac_init(r);
	}
	if (err == STORE_OK && !ct_eq(store_keys_of(keys)->data, store_keys_of(r->keys)->data, 32))
		err = STORE_OTHER;
	if (err == STORE_OK && r->replaces) {
		secret_drop(&store.keys);
		store.keys = secret_ref(keys);          /* l_raw_gc closes the store */
	}
	secret_unref(keys);
	return l_store_answer(L, err);
}

/* raw:begin(home) -> true | nil, code, fault
 *
 * The caller has the server's lock (host.serve_lock), so that no server runs or starts, or made the data key; the folders
 * are there. Takes the writer's lock and begins the transaction, in which all databases are there. The entries of a
 * store that is made are put by the caller. */
static int
l_raw_begin(lua_State *L)
{
	struct l_raw *r = l_check_type(L, 1, &l_type_raw);
	const char *home = luaL_checkstring(L, 2);
	enum store_err err;

	luaL_argcheck(L, r->txn == NULL && !r->replaces && store.env == NULL, 1, "begun already");
	store_fault = (struct store_fault){NULL, NULL, -1};
	r->replaces = true;
	if ((err = store_env_open(home)) == STORE_OK &&
	    !store_lock_wait(store.lock_fd, clock_read(CLOCK_MONOTONIC) + STORE_OPEN_WAIT_MS, NULL))
		err = STORE_TIMEOUT;
	if (err == STORE_OK && (err = store_check_length()) == STORE_OK)
		err = store_err_of(mdb_txn_begin(store.env, NULL, 0, &r->txn));
	for (int i = 0; i < STORE_DBS && err == STORE_OK; i++)
		err = store_err_of(mdb_dbi_open(r->txn, store_dbs[i].name, MDB_CREATE, &store.dbi[i]));
	return l_store_answer(L, err);
}

/* raw:commit() -> true | nil, code, fault
 *
 * The content is on the disk when this returns true. The handle cannot be used afterwards. */
static int
l_raw_commit(lua_State *L)
{
	struct l_raw *r = l_check_type(L, 1, &l_type_raw);
	MDB_txn *txn = r->txn;

	luaL_argcheck(L, txn != NULL && r->replaces, 1, "not begun");
	r->txn = NULL;
	return l_store_answer(L, store_txn_commit(txn));
}

static struct l_raw *
l_check_raw(lua_State *L)
{
	struct l_raw *r = l_check_type(L, 1, &l_type_raw);

	luaL_argcheck(L, r->txn != NULL, 1, "not begun, or over");
	return r;
}

/* raw:next(db [, from]) -> key, value | nothing | nil, code
 *
 * The entry at `from` or behind it in order of keys; nothing at the end. The store's own entries of meta
 * (their first byte is 1) are among them. */
static int
l_raw_next(lua_State *L)
{
	const struct l_raw *r = l_check_raw(L);
	enum store_db db = l_check_db(L, 2);
	struct slice from = lua_isnoneornil(L, 3) ? SLICE("\1") : l_check_slice(L, 3);
	MDB_val k = store_val(from), v;
	int rc = store_seek(r->txn, store.dbi[db], SLICE(""), &k, &v);

	if (rc == MDB_NOTFOUND)
		return 0;
	if (rc != 0)
		return l_fail(L, store_codes[store_err_of(rc)]);
	return l_two(L, store_slice(k), store_slice(v));
}

/* raw:put(db, key, value | nil, listed) -> true | nil, code
 *
 * Without a value the entry is deleted. listed: the record is listed as what was written last under this key, in a table
 * that is made anew: nothing of the old one is left in meta. */
static int
l_raw_put(lua_State *L)
{
	const struct l_raw *r = l_check_raw(L);
	enum store_db db = l_check_db(L, 2);
	struct slice key = l_check_slice(L, 3), value = {NULL, 0};
	enum store_err err;

	if (!lua_isnoneornil(L, 4))
		value = l_check_slice(L, 4);
	luaL_argcheck(L, !lua_toboolean(L, 5) || (store_dbs[db].kind != 0 && store_key_ok(key) && value.n >= STORE_TAG), 3, "is not listed");
	err = store_raw_put(r->txn, db, key, value);
	if (err == STORE_OK && lua_toboolean(L, 5))
		err = table_set(&store_written, r->txn, store_dbs[db].kind, key, value.p + value.n - STORE_TAG);
	return err == STORE_OK ? l_answer(L, true) : l_fail(L, store_codes[err]);
}

/* raw:record(db, key, value) -> plain part, version, room | nil, "damaged"
 *
 * Checks that the record was written for this place under the backup's keys. room: the bytes on
 * the disk that the record was promised. */
static int
l_raw_record(lua_State *L)
{
	const struct l_raw *r = l_check_raw(L);
	enum store_db db = l_check_db(L, 2);
	struct slice key = l_check_slice(L, 3), value = l_check_slice(L, 4);
	struct store_record rec;

	if (!store_key_ok(key) || store_record_check(store_keys_of(r->keys), db, key, value, &rec) != STORE_OK ||
	    !l_push_plain(L, rec.plain))
		return l_fail(L, store_codes[STORE_DAMAGED]);
	return 1 + l_two(L, rec.version, store_room_cost(rec.room));
}

/* raw:table(config, version, made) -> true | nil, code, fault
 *
 * Once all is put: gives the table of records this config generation and version. made: it is the one that raw:put
 * made, else the one that was put. "damaged": none was put, or it is not theirs. */
static int
l_raw_table(lua_State *L)
{
	const struct l_raw *r = l_check_raw(L);
	uint64_t config = (uint64_t)luaL_checkinteger(L, 2), version = (uint64_t)luaL_checkinteger(L, 3);
	enum store_err err = lua_toboolean(L, 4) ? STORE_OK : table_sync(&store_written, r->txn);

	if (err == STORE_OK)
		err = table_finish(&store_written, r->txn, config, version);
	return l_store_answer(L, err);
}

/* raw:mac(text)
 *
 * Adds the text to what the next sum authenticates. */
static int
l_raw_mac(lua_State *L)
{
	struct l_raw *r = l_check_type(L, 1, &l_type_raw);
	struct slice s = l_check_slice(L, 2);

	luaL_argcheck(L, r->keys != NULL, 1, "has no key");
	br_hmac_update(&r->mac, s.p, s.n);
	return 0;
}

/* raw:sum() -> 32 bytes
 * raw:sum(theirs) -> bool
 *
 * HMAC-SHA256 of all texts of raw:mac since the last sum; or whether that is `theirs`. */
static int
l_raw_sum(lua_State *L)
{
	struct l_raw *r = l_check_type(L, 1, &l_type_raw);
	struct slice theirs = lua_isnoneornil(L, 2) ? NO_SLICE : l_check_slice(L, 2);
	uint8_t ours[32];

	luaL_argcheck(L, r->keys != NULL, 1, "has no key");
	br_hmac_out(&r->mac, ours);
	raw_mac_init(r);
	if (theirs.p == NULL)
		return l_one(L, ((struct slice){(char *)ours, sizeof ours}));
	return l_answer(L, theirs.n == sizeof ours && ct_eq(ours, theirs.p, sizeof ours));
}

static const luaL_Reg l_store[] = {
	{"open", l_store_open}, {"close", l_store_close}, {"snapshot", l_store_snapshot}, {"replace", l_store_replace},
	{"datakey", l_store_datakey},
	{"record", l_store_record}, {"each", l_store_each}, {"generation", l_store_generation},
	{"changes", l_store_changes}, {"listed", l_store_listed},
	{"placeholder", l_store_placeholder}, {"derive", l_store_derive}, {"commit", l_store_commit}, /* yields */
	{NULL, NULL},
};

static const luaL_Reg l_raw[] = {
	{"unlock", l_raw_unlock}, {"begin", l_raw_begin}, {"commit", l_raw_commit}, {"next", l_raw_next},
	{"put", l_raw_put}, {"record", l_raw_record},
	{"table", l_raw_table}, {"mac", l_raw_mac}, {"sum", l_raw_sum}, {NULL, NULL},
};

/* ---- bind: http, addr ------------------------------------------------------
 * The parsers of field, uri and addr as the Lua modules `http.core` (lua/http.lua) and `addr`, so that pipeline,
 * commands and policies/match.lua spell hosts, paths and addresses as C does. Invariant: nothing
 * here has a state. Skip it if you know these sections. */

/* http.canonical_host(text) -> host, is_ip | nil, why
 *
 * The one spelling of a host: lower case, no dot at the end, an address as addr.parse writes it. */
static int
l_http_canonical_host(lua_State *L)
{
	char out[256];
	bool ip;
	const char *why = http_canonical_host(l_check_text(L, 1), out, &ip);

	if (why != NULL)
		return l_fail(L, why);
	return l_two(L, out, ip);
}

/* http.authority("host:port") -> host, port | nil
 *
 * The host as written; a port that is not named is nil. */
static int
l_http_authority(lua_State *L)
{
	struct slice host;
	int port;

	if (!http_parse_authority(l_check_text(L, 1), &host, &port))
		return 0;
	return port < 0 ? l_one(L, host) : l_two(L, host, port);
}

/* http.field_name_ok(text) -> bool
 *
 * Is the text a field name (RFC 9110 5.1)? */
static int l_http_field_name_ok(lua_State *L) { return l_answer(L, http_is_token(l_check_text(L, 1))); }

/* http.field_value_ok(text | secret) -> bool
 *
 * Is it a field value (RFC 9110 5.5)? */
static int
l_http_field_value_ok(lua_State *L)
{
	bool is_secret;

	return l_answer(L, http_valid_field_value(l_check_value(L, 1, &is_secret)));
}

static const luaL_Reg l_http_functions[] = {
	{"canonical_host", l_http_canonical_host}, {"authority", l_http_authority},
	{"field_name_ok", l_http_field_name_ok}, {"field_value_ok", l_http_field_value_ok}, {NULL, NULL},
};

/* addr.parse(text) -> canonical text, 4 or 16 bytes | nil
 *
 * A dotted quad, or an IPv6 address (RFC 4291 2.2) in the spelling of RFC 5952. */
static int
l_addr_parse(lua_State *L)
{
	struct addr a;
	char text[ADDR_TEXT_MAX];

	if (!addr_parse(l_check_text(L, 1), &a))
		return l_one(L, L_NIL);
	lua_pushlstring(L, text, addr_format(&a, text));
	return 1 + l_one(L, ((struct slice){(char *)a.b, a.v4 ? 4 : 16}));
}

/* addr.guard(text) -> nil | reason
 *
 * nil: the address is globally reachable unicast. */
static int
l_addr_guard(lua_State *L)
{
	struct addr a;

	return l_one(L, addr_parse(l_check_text(L, 1), &a) ? addr_guard(&a) : "not an address");
}

/* addr.cidr(text) -> "address/bits" | nil
 *
 * The canonical spelling of a range, or of an address alone. nil: no range, or bits behind the
 * prefix are set. */
static int
l_addr_cidr(lua_State *L)
{
	struct cidr c;
	char text[ADDR_TEXT_MAX];

	if (!cidr_parse(l_check_text(L, 1), &c))
		return l_one(L, L_NIL);
	text[addr_format(&c.a, text)] = '\0';
	lua_pushfstring(L, "%s/%d", text, (int)c.bits);
	return 1;
}

/* addr.within(text, range) -> bool
 *
 * Does the address lie in the range, which may be one address? */
static int
l_addr_within(lua_State *L)
{
	struct addr a;
	struct cidr c;

	return l_answer(L, addr_parse(l_check_text(L, 1), &a) && cidr_parse(l_check_text(L, 2), &c) && cidr_contains(&c, &a));
}

/* Reads the rows of the guard. */
static void
l_read_guard(lua_State *L)
{
	lua_push_module(L, "guarded");
	addr_guard_n = 0;
	L_EACH(L, lua_gettop(L), i) {
		struct guard_row *row = &addr_guard_rows[addr_guard_n];

		for (int k = 1; k <= 4; k++)
			lua_geti(L, -k, k);
		if (addr_guard_n == GUARD_ROWS_MAX || !cidr_parse(l_check_text(L, -4), &row->range) ||
		    !text_copy(row->why, sizeof row->why, lua_isboolean(L, -3) ? "" : luaL_checkstring(L, -3)) ||
		    (row->at = (uint8_t)luaL_optinteger(L, -2, 0)) > sizeof row->range.a.b - 4)
			luaL_error(L, "lua/guarded.lua: row %d", (int)i);
		row->turned = lua_toboolean(L, -1);
		addr_guard_n++;
		lua_pop(L, 4);
	}
	lua_pop(L, 1);
}

/* By the kinds of lua/fields.lua: how lua/target.lua reads a second target. */
static const char *const second_kinds[] = {"bucket", "key", "container", "account", "destination", "url", "prefix", "namespace", NULL};

/* Reads the rules of header fields. */
static void
l_read_fields(lua_State *L)
{
	static char room[8192];
	struct buf text = {.p = room, .cap = sizeof room, .max = sizeof room};
	size_t n = 0;

	lua_push_module(L, "fields");
	memset(hdr_names, 0, sizeof hdr_names);
	memset(hdr_chains, 0, sizeof hdr_chains);
	L_EACH(L, lua_gettop(L), i) {
		struct slice names = (lua_geti(L, -1, 2), l_check_text(L, -1));
		uint16_t rule = (lua_geti(L, -2, 1), (uint16_t)luaL_checkinteger(L, -1));

		if (lua_geti(L, -3, 3) != LUA_TNIL)
			rule |= (uint16_t)(luaL_checkoption(L, -1, NULL, second_kinds) << 11);
		while (names.n != 0) {
			struct slice name = slice_cut(&names, ' ');

			if (name.n == 0 || ++n == UINT8_MAX || !buf_addv(&text, name) || !buf_add(&text, " ", 1))
				luaL_error(L, "lua/fields.lua: row %d", (int)i);
			hdr_names[n].name = text.p + text.n - name.n - 1;
			hdr_names[n].rule = rule;
		}
		lua_pop(L, 3);
	}
	lua_pop(L, 1);
	for (; n != 0; n--) {
		uint8_t *head = &hdr_chains[http_rule_chain(hdr_names[n].name, strcspn(hdr_names[n].name, " "))];

		hdr_names[n].next = *head;
		*head = (uint8_t)n;
	}
}

static const luaL_Reg l_addr_functions[] = {
	{"parse", l_addr_parse}, {"guard", l_addr_guard}, {"cidr", l_addr_cidr}, {"within", l_addr_within},
	{NULL, NULL},
};

/* ---- bind: view ------------------------------------------------------------
 * A request as a policy sees it. Invariants: a view edits headers, query and body alone, since
 * method, scheme, host, port and path are what the decision was made on; a secret that a view sets
 * lies in the arena, and cannot be read as a string again. A view is a userdata that reads through
 * the runtime's `req`, whose handle req_stop empties: a view that is kept longer raises "request
 * is closed". Skip it unless you ask what a policy can do to a request. */
static struct l_type l_type_req = {.name = "sallyport.request"};
static struct l_type l_type_view = {.name = "sallyport.view"};
static struct l_type l_type_headers = {.name = "sallyport.headers"};
static struct l_type l_type_query = {.name = "sallyport.query"};

/* User values of a view; the first is the request's handle. */
enum { L_VIEW_HEADERS = 2, L_VIEW_QUERY, L_VIEW_STRIPPED };

struct req_handle {
	struct req *r;          /* NULL: closed */
	bool owned;             /* an example: made by Lua, freed by the collector */
};

static struct req *
l_check_req(lua_State *L, int idx)
{
	struct req_handle *h = l_check_type(L, idx, &l_type_req);

	if (h->r == NULL)
		luaL_error(L, "request is closed");
	return h->r;
}

/* Empties the request's handle. */
static void
req_close(struct req *r)
{
	struct req_handle *h = r->handle;

	if (h != NULL)
		h->r = NULL;
	r->handle = NULL;
}

/* The request behind a view or one of its parts: its first user value is the handle. */
static struct req *
l_check_part(lua_State *L, int idx, const struct l_type *type)
{
	struct req_handle *h;

	l_check_type(L, idx, type);
	lua_getiuservalue(L, idx, 1);
	h = lua_touserdata(L, -1);
	lua_pop(L, 1);
	if (h == NULL || h->r == NULL)
		luaL_error(L, "request is closed");
	return h->r;
}

static int
l_req_gc(lua_State *L)
{
	struct req_handle *h = l_check_type(L, 1, &l_type_req);

	if (h->r != NULL) {
		h->r->handle = NULL;
		if (h->owned) {
			free(h->r->conn);
			h->r->conn = NULL;
			req_free(h->r);
		}
	}
	h->r = NULL;
	return 0;
}

/* Pushes the name with `as` applied to each byte: ascii_lower, or name_fold for a set of names. */
static void
l_push_name(lua_State *L, struct slice s, char (*as)(char))
{
	luaL_Buffer b;
	char *p = luaL_buffinitsize(L, &b, s.n);

	for (size_t i = 0; i < s.n; i++)
		p[i] = as(s.p[i]);
	luaL_pushresultsize(&b, s.n);
}

/* Pushes { lower-case name = value } of the fields with that mark, or of all (mark -1), of which several of a name have
 * a comma between; secret values as strings. */
static void
l_push_fields(lua_State *L, const struct req *r, int mark)
{
	int top = lua_gettop(L);

	lua_createtable(L, 0, mark < 0 ? (int)r->head.nfields : 0);
	for (const struct http_field *f = r->head.field; f < r->head.field + r->head.nfields; f++) {
		if (mark >= 0 && f->mark != mark)
			continue;
		l_push_name(L, f->name, ascii_lower);
		lua_pushvalue(L, -1);
		if (lua_rawget(L, top + 1) == LUA_TSTRING && mark < 0)
			lua_pushliteral(L, ", ");
		else
			lua_pop(L, 1);
		l_push_slice(L, f->value);
		lua_concat(L, lua_gettop(L) - top - 2); /* of one alone it makes nothing new */
		lua_rawset(L, top + 1);
	}
}

/* -- pairs: their names as servers read them, and the one writer of forms and queries */

/* How many bytes some servers leave out before a name: a space (PHP; Rack behind a "&"), a bracket
 * (Rack 2). */
static size_t
pair_lead(const char *p, size_t n)
{
	if (n != 0 && memchr("+ []", *p, 4) != NULL)
		return 1;
	if (n < 3 || *p != '%')
		return 0;
	return memcmp(p, "%20", 3) == 0 || (p[1] == '5' && memchr("bBdD", p[2], 4) != NULL) ? 3 : 0;
}

/* The next name in a pair, decoded: a server that parts pairs at `;`, too, finds several. *at is 0
 * at first. */
static bool
pair_next_name(struct slice pair, size_t *at, char *out, size_t cap, struct slice *name)
{
	struct slice piece, raw;

	if (!pair_next(pair, at, PAIR_INNER, &piece, &raw))
		return false;
	for (size_t lead; (lead = pair_lead(raw.p, raw.n)) != 0; raw.p += lead)
		raw.n -= lead;
	*name = pair_name(raw, out, cap);
	for (char *u = out; (u = memmem(u, name->n - (size_t)(u - out), "%u00", 4)) != NULL; u++) {
		size_t left = name->n - (size_t)(u - out);      /* ASP.NET reads %u005f as "_" */

		if (left >= 6 && hex_decode(u, (struct slice){u + 4, 2})) {
			memmove(u + 1, u + 6, left - 6);
			name->n -= 5;
		}
	}
	return true;
}

/* Is `found`, up to a NUL and, with `array`, up to a bracket, the same name to PHP? PHP reads ".",
 * " " and a "[" that nothing closes as "_". */
static bool
pair_same_php(struct slice found, struct slice name, bool array)
{
	size_t n = 0;

	for (; n < found.n && found.p[n] != '\0' && (!array || memchr("[]", found.p[n], 2) == NULL); n++) {
		char ch = memchr(". [", found.p[n], 3) != NULL ? '_' : found.p[n];

		if (n == name.n || name_fold(ch) != name_fold(memchr(". [", name.p[n], 3) != NULL ? '_' : name.p[n]))
			return false;
	}
	return n == name.n;
}

/* Would a server take the parameter `found` for `name`? By name_same, or as PHP reads names; to
 * Rack 2 a name ends at a "]", too. Of two parameters these servers take the later, so none of the
 * agent's may stand beside ours. */
static bool
pair_same(struct slice found, struct slice name)
{
	while (name.n != 0 && memchr(" []", name.p[0], 3) != NULL)  /* pair_next_name left these out of `found` */
		name = (struct slice){name.p + 1, name.n - 1};
	return name_same(found, name) || pair_same_php(found, name, false) ||
	    ((name.n == 0 || memchr(name.p, '[', name.n) == NULL) && pair_same_php(found, name, true));
}

/* A list's names, borrowed from it, on their own: helper threads read them too. */
struct names {
	size_t n;
	struct slice name[];
};

/* Pushes the names of the list at `idx`. */
static const struct names *
l_read_names(lua_State *L, int idx)
{
	size_t n = (size_t)luaL_len(L, idx);
	struct names *l = lua_newuserdatauv(L, sizeof *l + n * sizeof *l->name, 0);

	l->n = 0;
	L_EACH(L, idx, i)
		l->name[l->n++] = l_check_text(L, -1);
	return l;
}

/* The index of the name that the pair has, from 1; 0: none. */
static size_t
pair_listed(const struct names *l, struct slice pair)
{
	struct slice name;
	char text[256];

	for (size_t at = 0; pair_next_name(pair, &at, text, sizeof text, &name);)
		for (size_t i = l->n; i > 0; i--)
			if (pair_same(name, l->name[i - 1]))
				return i;
	return 0;
}

/* Do readers agree on the form? It has no control bytes, and two digits behind each `%`. */
static bool
form_ok(struct slice in)
{
	for (size_t i = 0; i < in.n; i++)
		if (http_is_control(in.p[i]))
			return false;
	return pct_ok(in);
}

/* What a pair of a form is to the parameter `name`. */
enum form_pair { FORM_OTHER, FORM_OURS, FORM_HIDDEN };  /* HIDDEN: some servers find it behind a `;` */

static enum form_pair
form_pair_is(struct slice pair, struct slice name)
{
	char text[256];
	struct slice found;
	size_t at = 0;

	for (size_t i = 0; pair_next_name(pair, &at, text, sizeof text, &found); i++)
		if (pair_same(found, name))
			return i == 0 && at > pair.n ? FORM_OURS : FORM_HIDDEN;
	return FORM_OTHER;
}

static void
form_put_pair(struct buf *out, struct slice name, struct slice value)
{
	pct_put(out, name, PCT_URI);
	buf_add(out, "=", 1);
	pct_put(out, value, PCT_URI);
}

/* Writes the form with one pair name=value: in place of the first pair of that name, else at the
 * end. Further pairs of that name are left out; every other byte stays. False: the form is
 * malformed, or the name stands where only some servers see it. */
static bool
form_splice(struct buf *out, struct slice in, struct slice name, struct slice value)
{
	struct slice pair, raw, mark = {"&", 0};
	bool placed = false;

	if (!form_ok(in))
		return false;
	for (size_t at = 0; in.n != 0 && pair_next(in, &at, PAIR_EVERY, &pair, &raw);) {
		enum form_pair is = form_pair_is(pair, name);

		if (is == FORM_HIDDEN)
			return false;
		if (is == FORM_OURS && placed)
			continue;
		buf_addv(out, mark);
		mark.n = 1;
		if (is == FORM_OTHER)
			buf_addv(out, pair);
		else
			form_put_pair(out, name, value);
		placed = placed || is == FORM_OURS;
	}
	if (!placed) {
		buf_addv(out, mark);
		form_put_pair(out, name, value);
	}
	return true;
}

/* Writes the pairs of `in` without those of the list's names, or of `name` where `list` is NULL. Adds
 * the pairs that are left out to `gone`, unless that is NULL. */
static void
keep_pairs(struct slice in, const struct names *list, struct slice name, struct buf *out, struct buf *gone)
{
	struct slice pair, raw;
	char decoded[256];

	for (size_t at = 0; pair_next(in, &at, PAIR_AMP, &pair, &raw);) {
		bool goes = list != NULL ? pair_listed(list, pair) != 0 && !seal_alone(pair) :
		    slice_eq(pair_name(raw, decoded, sizeof decoded), name);
		struct buf *to = goes ? gone : out;

		if (to != NULL) {
			buf_add(to, "&", to->n != 0);
			buf_addv(to, pair);
		}
	}
}

/* -- view: headers */

/* May a policy set or remove a field of that name? */
static bool
field_settable(struct slice name)
{
	return http_is_token(name) && (http_field_rule(name) & (HDR_FIXED | HDR_HOP)) == 0;
}

/* Did a sealed text stand in the field or pair of that name? Then nothing else is attached there. */
static bool
req_locked(const struct req *r, enum subst_place place, struct slice name)
{
	uint64_t rows = r->subst != NULL ? subst_rows(r->subst, place, name) : 0;

	while (rows != 0 && !r->subst->row[__builtin_ctzll(rows)].locked)
		rows &= rows - 1;
	return rows != 0;
}

/* Marks the client's fields of that name as dropped, and takes those that were set out of the
 * list. */
static void
req_remove_field(struct req *r, struct slice name)
{
	if (req_locked(r, PLACE_HEADER, name))
		return;
	for (size_t i = r->head.nfields; i-- > 0;) {
		struct http_field *f = &r->head.field[i];

		if (f->mark != FIELD_KEPT || !slice_eq_nocase(f->name, name))
			continue;
		f->mark = FIELD_DROPPED;
		if (f->own == NULL)
			continue;
		secret_unref(f->own);
		memmove(f, f + 1, (--r->head.nfields - i) * sizeof *f);
	}
}

/* Writes a field of the list, or the one behind its last. Name and value lie in one block of the
 * arena. False: no memory. */
static bool
field_set(struct http_field *f, struct slice name, struct slice value, bool is_secret)
{
	struct secret *own = secret_new(name.n + value.n);

	if (own == NULL)
		return false;
	memcpy(own->p, name.p, name.n);
	if (value.n != 0)
		memcpy(own->p + name.n, value.p, value.n);
	*f = (struct http_field){.name = {own->p, name.n}, .value = {own->p + name.n, value.n},
	    .is_secret = is_secret, .own = own};
	return true;
}

/* Sets the one field of that name. False: no memory, or too many fields. */
static bool
req_set_field(struct req *r, struct slice name, struct slice value, bool is_secret)
{
	req_remove_field(r, name);
	if (req_locked(r, PLACE_HEADER, name))
		return true;
	return r->head.nfields < COUNT(r->head.field) &&
	    field_set(&r->head.field[r->head.nfields], name, value, is_secret) && ++r->head.nfields != 0;
}

/* headers:set(name, value)
 *
 * Sets the one field of that name to a string, a number or a secret. Raises for a name that a
 * policy may not set, for CR, LF or NUL in the value, and for too many fields. */
static int
l_headers_set(lua_State *L)
{
	struct req *r = l_check_part(L, 1, &l_type_headers);
	struct slice name, value;
	bool is_secret = false;

	name = l_check_text(L, 2);
	if (lua_type(L, 3) == LUA_TNUMBER)
		luaL_tolstring(L, 3, NULL), lua_replace(L, 3);
	value = l_check_value(L, 3, &is_secret);
	if (!field_settable(name))
		return luaL_error(L, "a policy cannot set the header %s", name.p);
	if (!http_valid_field_value(value))
		return luaL_error(L, "header %s: %s", name.p, L_UNFIT(is_secret, "bytes that no header may hold"));
	return req_set_field(r, name, value, is_secret) ? 0 :
	    luaL_error(L, "out of memory, or more than %d headers set", HTTP_EDITS_MAX);
}

/* headers:get(name [, n]) -> string | secret | nil
 *
 * The field that a policy set; else the nth that came (the first if absent). */
static int
l_headers_get(lua_State *L)
{
	struct req *r = l_check_part(L, 1, &l_type_headers);
	struct slice name = l_check_text(L, 2);
	lua_Integer n = luaL_optinteger(L, 3, 1);
	const struct http_field *found = NULL;

	r->looked = true;
	for (const struct http_field *f = r->head.field; f < r->head.field + r->head.nfields; f++) {
		if (f->mark != FIELD_KEPT || !slice_eq_nocase(f->name, name) || (f->own == NULL && --n != 0))
			continue;
		found = f;
		if (f->own != NULL)
			break;
	}
	if (found == NULL)
		return l_one(L, L_NIL);
	return found->is_secret ? l_push_secret_copy(L, found->value) : l_one(L, found->value);
}

/* headers:remove(name)
 *
 * Removes every field of that name. Raises for a name that a policy may not set. */
static int
l_headers_remove(lua_State *L)
{
	struct req *r = l_check_part(L, 1, &l_type_headers);
	struct slice name = l_check_text(L, 2);

	if (!field_settable(name))
		return luaL_error(L, "a policy cannot remove the header %s", name.p);
	r->looked = true;       /* which fields go depends on those that came */
	req_remove_field(r, name);
	return 0;
}

/* headers:names() -> { name… }
 *
 * The names of all fields that go out, in lower case, one for each field. */
static int
l_headers_names(lua_State *L)
{
	struct req *r = l_check_part(L, 1, &l_type_headers);
	lua_Integer n = 0;

	r->looked = true;
	lua_newtable(L);
	for (const struct http_field *f = r->head.field; f < r->head.field + r->head.nfields; f++)
		if (f->mark == FIELD_KEPT) {
			l_push_name(L, f->name, ascii_lower);
			lua_seti(L, -2, ++n);
		}
	return 1;
}

static const luaL_Reg l_headers[] = {
	{"set", l_headers_set}, {"get", l_headers_get}, {"remove", l_headers_remove},
	{"names", l_headers_names}, {NULL, NULL},
};

/* -- view: query. An edited query lies in the arena, even where it holds no secret. */

/* Sets the query that goes out. Takes the reference. */
static void
req_set_query(struct req *r, struct secret *s)
{
	secret_drop(&r->new_query);
	r->new_query = s;
}

/* Sets the query to lua_text. */
static void
l_set_query(lua_State *L, struct req *r)
{
	struct secret *s = buf_take_secret(&lua_text);

	if (s == NULL)
		l_text_refuse(L);
	req_set_query(r, s);
}

/* Takes the pairs of that name out of the query, and adds name=value unless value.p is NULL. */
static void
l_query_edit(lua_State *L, struct req *r, struct slice name, struct slice value)
{
	struct slice in = req_query_now(r);
	struct buf *b = l_text(L, true, in.n + 3 * (name.n + value.n) + 2);

	if (req_locked(r, PLACE_QUERY, name))
		return;
	keep_pairs(in, NULL, name, b, NULL);
	if (value.p != NULL) {
		buf_add(b, "&", b->n != 0);
		form_put_pair(b, name, value);
	}
	l_set_query(L, r);
}

/* The first value of a parameter as the client wrote it; .p NULL: the client sent none. */
static struct slice
req_query_sent(const struct req *r, struct slice name)
{
	struct slice pair, raw;
	char decoded[256];

	for (size_t at = 0; r->query.p != NULL && pair_next(r->query, &at, PAIR_AMP, &pair, &raw);)
		if (pair.n > raw.n && slice_eq(pair_name(raw, decoded, sizeof decoded), name))
			return pair_value(pair, raw);
	return NO_SLICE;
}

/* query:set(name, value)
 *
 * Sets the one pair of that name to a string or a secret, percent-encoded, at the end. An answer's
 * head that repeats a secret value gets the client's own value in its place. */
static int
l_query_set(lua_State *L)
{
	struct req *r = l_check_part(L, 1, &l_type_query);
	struct slice name, value;
	bool is_secret = false;

	name = l_check_text(L, 2);
	value = l_check_value(L, 3, &is_secret);
	if (is_secret) {        /* for the way back */
		if (!pct_put(l_text(L, false, 0), name, PCT_URI))
			return l_text_refuse(L);
		if (!scrub_add(&r->back, l_test_secret(L, 3), 0, req_query_sent(r, name), buf_slice(&lua_text), false))
			return luaL_error(L, "more than %d secrets to be kept from an answer", SCRUB_VALUES_MAX);
	}
	l_query_edit(L, r, name, value);
	return 0;
}

/* query:remove(name)
 *
 * Removes every pair of that name. */
static int
l_query_remove(lua_State *L)
{
	struct req *r = l_check_part(L, 1, &l_type_query);
	struct slice name = l_check_text(L, 2);

	l_query_edit(L, r, name, NO_SLICE);
	return 0;
}

/* query:get(name) -> string | nil
 *
 * The first value that the client sent, decoded. */
static int
l_query_get(lua_State *L)
{
	struct req *r = l_check_part(L, 1, &l_type_query);
	struct slice value = req_query_sent(r, l_check_text(L, 2));

	if (value.p == NULL)
		return l_one(L, value);
	l_push_decoded(L, value, PCT_QUERY);
	return 1;
}

static const luaL_Reg l_query[] = {
	{"set", l_query_set}, {"get", l_query_get}, {"remove", l_query_remove}, {NULL, NULL},
};

/* -- view: body */

/* What is looked for in a text, or cut out of, or put into, a body. */
struct edit {
	struct heavy heavy;
	struct req *r;          /* borrowed */
	struct buf out;         /* owned: the new body; max 0: there is none */
	struct slice in, name, value; /* borrowed from the stack */
	const struct names *names; /* borrowed from the stack */
	const char *why;        /* static; NULL: it went well */
	struct subst_run run;   /* of rows */
	bool answer;
};

/* Answers true or false, or nil and why. Raises where there is no room for a form that was stripped of names. */
static int
l_edit_k(lua_State *L, void *heavy)
{
	struct edit *e = heavy;

	if (e->why == NULL && e->out.max != 0 && (!buf_ok(&e->out) || !req_take_body(e->r, &e->out, e->names == NULL)))
		e->why = "no_room";
	buf_free(&e->out);
	if (e->why != NULL && e->names != NULL)
		return luaL_error(L, "no room for the form");
	return e->why != NULL ? l_fail(L, e->why) : l_answer(L, e->answer);
}

static void
edit_splice_json(struct job *j)
{
	struct edit *e = OWNER(j, struct edit, heavy.job);
	struct slice in = buf_slice(&e->r->body);
	struct json_spot spot;
	enum json_result res = json_find_spot(in, e->name, &spot);

	if (res != JSON_OK)
		e->why = json_codes[res];
	else if (!json_splice(&e->out, in, &spot, e->name, e->value) && buf_ok(&e->out))
		e->why = "unfit";
}

static void
edit_splice_form(struct job *j)
{
	struct edit *e = OWNER(j, struct edit, heavy.job);

	e->why = form_splice(&e->out, buf_slice(&e->r->body), e->name, e->value) ? NULL : "malformed";
}

/* view:splice_json(name, value), view:splice_form(name, value)
 *   -> true | nil, "malformed" | "not_object" | "duplicate" | "unfit" | "no_room"
 *
 * Sets a member of the body's top object to a string, or the pair of that name in a form; every
 * other byte of the body stays. value: a string or a secret of at most 256 KiB. Raises where the
 * type did not declare `body`. Of a long body, yields where the policy may wait. */
static int
l_view_splice(lua_State *L, bool json)
{
	struct req *r = l_check_part(L, 1, &l_type_view);
	struct edit *e = (lua_settop(L, 3), l_new(L, sizeof *e, 0, NULL));
	bool is_secret = false;

	e->r = r;
	e->answer = true;
	e->name = l_check_text(L, 2);
	e->value = l_check_value(L, 3, &is_secret);
	if (!r->body_read)
		return luaL_error(L, "a type that edits the body declares body");
	if (r->body_set && r->body_secret)      /* "duplicate" would compare it with a guess */
		return luaL_error(L, "a body that was built with a secret is not edited");
	if (e->value.n > SECRET_MAX / 8)
		l_secret_refuse_size(L, "a value of more than 256 KiB");
	/* a sealed text was opened there: nothing else is attached. A row of JSON has the NUL behind the name, too */
	if (req_locked(r, json ? PLACE_JSON : PLACE_FORM, (struct slice){e->name.p, e->name.n + json}))
		return l_answer(L, true);
	lua_grant(r->body.n);
	lua_charge(L, (int64_t)r->body.n / LUA_READ);
	/* JSON writes a control byte as six, and adds quotes, ":" and "," */
	buf_init(&e->out, r->body.n + 6 * (e->name.n + e->value.n) + 6);
	buf_reserve(&e->out, e->out.max);
	return l_heavy(L, &e->heavy, r->body.n, json ? edit_splice_json : edit_splice_form, l_edit_k);
}

static int l_view_splice_json(lua_State *L) { return l_view_splice(L, true); }
static int l_view_splice_form(lua_State *L) { return l_view_splice(L, false); }

/* -- view: sigv4 */

/* Is a field of this name signed? Those are the names that S3 and others insist on, and the names
 * of o->listed, which the client had signed. */
static bool
req_field_signed(struct slice name, const struct l_sigv4 *o)
{
	static const struct slice always[] = {{"content-type", 12}, {"content-md5", 11}};
	struct slice left = o->listed;

	if (slice_eq_nocase(name, SLICE("expect")) || slice_eq_nocase(name, SLICE("authorization")))
		return false;
	if (name.n > 6 && slice_begins_nocase(name, SLICE("x-amz-")))
		return true;
	for (size_t i = 0; !o->query && i < 2; i++)
		if (slice_eq_nocase(name, always[i]))
			return true;
	while (left.n != 0)
		if (slice_eq_nocase(name, slice_cut(&left, ';')))
			return true;
	return false;
}

#define REQ_SIGNED_MAX (HTTP_FIELDS_MAX + HTTP_EDITS_MAX + 1)

/* The fields to be signed, as req_put_head will write them. `host`: room for the value of Host. */
static size_t
req_signed_fields(const struct req *r, const struct l_sigv4 *o, char host[300],
    struct sigv4_field *out)
{
	struct buf authority = {.p = host, .cap = 300, .max = 300};
	size_t n = 0;

	req_put_authority(r, &authority);
	out[n++] = (struct sigv4_field){SLICE("host"), buf_slice(&authority)};
	for (const struct http_field *f = r->head.field; f < r->head.field + r->head.nfields; f++)
		if (f->mark == FIELD_KEPT && req_field_signed(f->name, o))
			out[n++] = (struct sigv4_field){f->name, f->value};
	return n;
}

static void
req_put_pair(struct buf *b, const char *name, struct slice value)
{
	buf_add(b, "&", b->n != 0);
	form_put_pair(b, slice_of(name), value);
}

/* Writes the query that is signed: the pairs that go out, then the signature's parameters. */
static void
req_put_presigned(const struct req *r, const struct l_sigv4 *o, struct slice names, struct buf *b)
{
	char credential[2 * SIGV4_SCOPE_MAX];
	int n = snprintf(credential, sizeof credential, "%.*s/%s", (int)o->access_key.n,
	    o->access_key.p, o->scope.text);

	buf_addv(b, req_query_now(r));
	req_put_pair(b, "X-Amz-Algorithm", slice_of(o->scope.asymmetric ? sigv4_ecdsa : sigv4_hmac));
	req_put_pair(b, "X-Amz-Credential", (struct slice){credential, (size_t)n});
	req_put_pair(b, "X-Amz-Date", slice_of(o->scope.datetime));
	if (o->expires.n != 0)
		req_put_pair(b, "X-Amz-Expires", o->expires);
	if (o->scope.asymmetric)
		req_put_pair(b, "X-Amz-Region-Set", o->region_set);
	req_put_pair(b, "X-Amz-SignedHeaders", names);
	if (o->token.n != 0 && !o->token_after)
		req_put_pair(b, "X-Amz-Security-Token", o->token);
}

/* Attaches the filter that signs the body's chunks as they stream, where o->payload says so. */
static bool
req_sign_chunks(struct req *r, const struct l_sigv4 *o, const unsigned char key[SIGV4_KEY],
    const char *signature)
{
	static const struct slice plain = {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", 34},
	    trailer = {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", 42};
	struct sigv4_chain chain;

	if (r->head.body == BODY_NONE || (!slice_eq(o->payload, plain) && !slice_eq(o->payload, trailer)))
		return true;
	br_hmac_key_init(&chain.key, &br_sha256_vtable, key, SIGV4_KEY);
	chain.scope = o->scope;
	text_copy(chain.last, sizeof chain.last, signature);
	flow_attach(&r->up_flow, filter_sigv4_new(&chain, slice_eq(o->payload, trailer)));
	wipe(&chain, sizeof chain);
	if (r->up_flow.filter != NULL && r->counted != NULL)
		r->up_flow.filter->share = &r->counted->bodies;
	return r->up_flow.filter != NULL;
}

/* Notes a secret pair of the presigned query: an answer that repeats the query must give away
 * neither the session's token nor the signature, for the URL is valid for anybody until it
 * expires. */
static bool
req_note_pair(struct req *r, const char *name, struct slice value)
{
	struct secret *s = secret_copy(value.p, value.n);
	bool ok = s != NULL &&
	    scrub_add(&r->back, s, 0, req_query_sent(r, slice_of(name)), slice_of(name), false);

	secret_unref(s);
	return ok;
}

/* Adds the signature to the signed query and makes that the request's. */
static bool
req_set_presigned(struct req *r, const struct l_sigv4 *o, const char *signature, struct buf *text)
{
	struct secret *query;

	if (o->token.n != 0 && o->token_after)
		req_put_pair(text, "X-Amz-Security-Token", o->token);
	req_put_pair(text, "X-Amz-Signature", slice_of(signature));
	if (!req_note_pair(r, "X-Amz-Signature", slice_of(signature)) ||
	    (o->token.n != 0 && !req_note_pair(r, "X-Amz-Security-Token", o->token)) ||
	    (query = buf_take_secret(text)) == NULL)
		return false;
	req_set_query(r, query);
	return true;
}

/* Signs the request as it is now: in the query, or in Authorization and the fields that go with
 * it. */
static bool
req_sign(struct req *r, const struct l_sigv4 *o, struct sigv4_request *s)
{
	struct sigv4_field field[REQ_SIGNED_MAX];
	char host[300], signature[SIGV4_SIGNATURE_MAX + 1];
	unsigned char key[SIGV4_KEY];
	struct buf names, text = {.max = HTTP_HEAD_MAX, .secret = true};
	bool ok = o->query || (req_set_field(r, SLICE("x-amz-date"), slice_of(o->scope.datetime), false) &&
	    (!o->hash_header || req_set_field(r, SLICE("x-amz-content-sha256"), o->payload, false)) &&
	    (!o->scope.asymmetric || req_set_field(r, SLICE("x-amz-region-set"), o->region_set, false)) &&
	    (o->token.n == 0 || req_set_field(r, SLICE("x-amz-security-token"), o->token, true)));

	buf_init(&names, HTTP_HEAD_MAX);
	s->field = field;
	s->nfields = req_signed_fields(r, o, host, field);
	sigv4_names(s, &names);
	if (o->query)
		req_put_presigned(r, o, s->names, &text);
	s->query = o->query ? buf_slice(&text) : req_query_now(r);
	ok = ok && buf_ok(&names) && buf_ok(&text) && sigv4_make(o, s, key, signature) && (o->query ?
	    req_set_presigned(r, o, signature, &text) :
	    buf_join(&text, (const struct slice[]){
	    slice_of(o->scope.asymmetric ? sigv4_ecdsa : sigv4_hmac), SLICE(" Credential="),
	    o->access_key, SLICE("/"), slice_of(o->scope.text), SLICE(", SignedHeaders="), s->names,
	    SLICE(", Signature="), slice_of(signature)}, 9) &&
	    req_set_field(r, SLICE("authorization"), buf_slice(&text), true) && req_sign_chunks(r, o, key, signature));
	wipe(key, sizeof key);
	buf_free(&names);
	buf_free(&text);
	return ok;
}

static int
l_view_sigv4_k(lua_State *L, void *heavy)
{
	struct digest *d = heavy;
	struct req *r = d->r;
	char hash[2 * br_sha256_SIZE];
	struct sigv4_request s;
	struct l_sigv4 o;

	l_sigv4_read(L, 2, &o);
	if (o.payload.p == NULL)
		o.payload = (struct slice){hash, hex_encode(hash, d->out, br_sha256_SIZE)};
	s = (struct sigv4_request){
		.method = r->head.method, .path = req_path_now(r),
		.payload = o.payload, .normalize = !o.s3, .twice = !o.s3,
	};
	return req_sign(r, &o, &s) ? 0 : luaL_error(L, "sigv4: the request is too large to sign, or memory is out");
}

/* view:sigv4{ access_key=, secret=, token=, region=, service=, region_set=, payload=, hash_header=,
 *   s3=, signed="name;…", query=, expires=, token_after= }
 *
 * Signs the request as it is now; a signed part that is edited later spoils the signature.
 * region_set: signs by SigV4a. payload: a hash or one of AWS's words; absent: the body's hash.
 * signed: further fields. The other members are those of struct l_sigv4. A body in signed chunks
 * gets its filter here. Raises for malformed members, and for a request that is too large. */
static int
l_view_sigv4(lua_State *L)
{
	struct req *r = l_check_part(L, 1, &l_type_view);
	struct digest *d = (lua_settop(L, 2), l_new(L, sizeof *d, 0, NULL));
	struct l_sigv4 o;

	d->r = r;
	d->hash = SIGN_SHA256;
	l_sigv4_read(L, 2, &o);
	if (!http_valid_field_value(o.payload) || !http_valid_field_value(o.region_set) ||
	    !http_valid_field_value(o.token) || o.token.n > SECRET_MAX)
		return luaL_error(L, "sigv4: bytes that no header may hold");
	if (o.payload.p == NULL) {
		if (!r->body_read && r->head.body != BODY_NONE &&
		    !(r->head.body == BODY_LENGTH && r->head.length == 0))
			return luaL_error(L, "sigv4: a body that is not read has no hash to sign");
		d->in = buf_slice(&r->body);
	}
	return l_heavy(L, &d->heavy, d->in.n, digest_run, l_view_sigv4_k);
}

/* ---- bind: door ------------------------------------------------------------
 * A request of the world as lua/web/door.lua sees it: its fields as they came, the fields of its answer, and
 * how it goes on as a tenant's to an MCP server. Skip it unless you review the door. Invariant: of what
 * the world sent, only the fields that http_door_passes names reach a server, and only those come back. */

/* Adds the fields of the list at `idx`, { { name, value }… }, to those of the answer. Raises for what is no
 * field, and for framing. */
static void
l_req_fields(lua_State *L, int idx, struct req *r)
{
	L_EACH(L, idx, i) {
		struct slice name = (lua_geti(L, -1, 1), l_check_slice(L, -1)),
		    value = (lua_geti(L, -2, 2), l_check_slice(L, -1));

		if (!http_is_token(name) || !http_valid_field_value(value) ||
		    (http_field_rule(name) & (HDR_HOP | HDR_FRAMING)) != 0)
			luaL_error(L, "no field of an answer");
		buf_join(&r->fields, (const struct slice[]){SLICE("\r\n"), name, SLICE(": "), value}, 4);
		lua_pop(L, 2);
	}
	if (!buf_ok(&r->fields))
		luaL_error(L, "fields of more than %d bytes", PEER_OUT_HEAD);
}

/* req:came() -> { lower-case name = value }, address, port, uid
 *
 * The fields as they came, several of a name with a comma between, and the other end of the connection. */
static int
l_req_came(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	char text[ADDR_TEXT_MAX];

	l_push_fields(L, r, -1);
	return 1 + l_three(L, ((struct slice){text, addr_format(&r->conn->client.addr, text)}), r->conn->client.port, r->conn->uid);
}

/* req:hand_on{ host=, port=, tls=bool, path=, query=, connection=, fields={ { name, value }… } } -> bool
 *
 * The request goes to this URL from here on, in place of the door's. connection: what pipeline.rejudge is told as its
 * token. fields: of its answer, beside those of the upstream that pass. false: the connection has its share of requests
 * or streams. */
static int
l_req_hand_on(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	struct slice path, query;

	luaL_checktype(L, 2, LUA_TTABLE);
	luaL_argcheck(L, r->form == REQ_DOOR && r->target.n == 0, 1, "no request of the door");
	lua_settop(L, 2);
	l_opt_name(L, 2, "host", r->host, sizeof r->host);
	l_opt_name(L, 2, "connection", r->token, sizeof r->token);
	r->port = (int)l_integer(L, 2, "port", 443);
	r->secure = l_flag(L, 2, "tls");
	r->websocket = false;
	lua_getfield(L, 2, "path");
	path = l_check_slice(L, 3);
	query = lua_getfield(L, 2, "query") == LUA_TSTRING ? l_check_slice(L, 4) : NO_SLICE;
	if (!buf_addv(&r->target, path) || !buf_addv(&r->target, query))
		return luaL_error(L, "out of memory");
	r->path = (struct slice){r->target.p, path.n};
	r->query = (struct slice){query.p != NULL ? r->target.p + path.n : NULL, query.n};
	for (size_t i = 0; i < r->head.nfields; i++)
		if (!http_door_passes(&r->head.field[i]))
			r->head.field[i].mark = FIELD_DROPPED;
	lua_getfield(L, 2, "fields");
	l_req_fields(L, 5, r);
	return l_answer(L, req_claim_line(r));
}

/* Puts the server's own id in the place of the sealed one that the client sent. False: it is none of these. */
static bool
req_open_mcp_id(struct req *r, struct slice name)
{
	char raw[MCP_ID_NONCE + MCP_ID_MAX + MCP_ID_TAG];
	int i = http_find(&r->head, name, 0);
	struct slice id;

	if (i < 0)
		return true;
	id = mcp_take_id(r->mcp, name, r->head.field[i].value, raw);
	return id.p != NULL && http_find(&r->head, name, (size_t)i + 1) < 0 && req_set_field(r, name, id, false);
}

static struct mcp *
l_new_mcp(lua_State *L, struct req *r)
{
	if ((r->mcp = calloc(1, sizeof *r->mcp)) == NULL)
		luaL_error(L, "out of memory");
	buf_init(&r->mcp->id, 1024);
	return r->mcp;
}

/* req:narrow(rows)
 *
 * Tools that an MCP answer lists must be allowed by these rows of a rule, too (struct mcp). */
static int
l_req_narrow(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	struct slice text = l_check_slice(L, 2);
	struct mcp *m = r->mcp;
	struct buf rows;

	if (m == NULL) {
		m = l_new_mcp(L, r);
		memset(m->rest, true, sizeof m->rest);
	}
	m->limits[MCP_TOOLS] = true;
	if (!slice_has(buf_slice(&m->rows), text)) {    /* it was decided anew */
		buf_init(&rows, m->rows.n + text.n);
		luaL_argcheck(L, rows.max <= MCP_ROWS_MAX && buf_addv(&rows, text) && buf_addv(&rows, buf_slice(&m->rows)), 2,
		    "patterns without end, or out of memory");
		buf_free(&m->rows);
		m->rows = rows;
	}
	return l_answer(L, req_set_field(r, SLICE("accept-encoding"), SLICE("identity"), false));
}

/* req:mcp({ connection=, tools=, rest= }, note) -> bool
 *
 * The answer's lists show what `tools` and `rest` say. tools: rows, each '+' or '-', a pattern and NUL; the first that fits
 * a tool's name decides, else `rest`: '+' or '-' for tools, resources, templates, prompts. Ids of sessions and events are the
 * connection's own from here on; false: the request names one that is not. note: members of the record (web.mcp's note).
 * Before req:forward. */
static int
l_req_mcp(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	struct slice note = l_check_slice(L, 3), text;
	struct mcp *m;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 3);
	mcp_free(r->mcp);
	m = l_new_mcp(L, r);
	l_opt_name(L, 2, "connection", m->connection, sizeof m->connection);
	lua_getfield(L, 2, "rest");
	text = l_check_slice(L, 4);
	luaL_argcheck(L, text.n == MCP_LISTS, 2, "rest has a letter for each kind of list");
	for (int list = 0; list < MCP_LISTS; list++)
		m->limits[list] = !(m->rest[list] = text.p[list] == '+');
	lua_getfield(L, 2, "tools");
	text = l_check_slice(L, 5);
	buf_init(&m->rows, text.n);             /* no more than it takes: a stream keeps it */
	buf_init(&m->note, note.n);
	luaL_argcheck(L, text.n <= MCP_ROWS_MAX && buf_addv(&m->rows, text) && buf_addv(&m->note, note), 2,
	    "patterns without end, or out of memory");
	while (text.n != 0)
		m->limits[MCP_TOOLS] |= slice_cut(&text, '\0').p[0] != '+';
	return l_answer(L, req_open_mcp_id(r, mcp_session) && req_open_mcp_id(r, mcp_event) &&
	    req_set_field(r, SLICE("accept-encoding"), SLICE("identity"), false));
}

/* request.mcp_call(text) -> the name of the tool, the protocol's revision | nil
 *
 * Of a message that mcp_call knows. nil: it may be any other, or none. */
static int
l_mcp_call(lua_State *L)
{
	struct slice name, revision;

	if (!mcp_call(l_check_slice(L, 1), &name, &revision))
		return 0;
	return l_two(L, name, revision);
}

/* req:handed() -> { { domain=, type=, protocol=, listens=, netns=, at= }… } | nil: too many, or they are served already
 *
 * First the control connection itself, then what came with it by SCM_RIGHTS: the bytes of socket(7)'s options, and the
 * address that it is bound to. netns is SO_NETNS_COOKIE (Linux 5.14). Of what is no socket, `at` alone is there. */
static int
l_req_handed(lua_State *L)
{
	static const struct { const char *name; int option; } facts[] = {{"domain", SO_DOMAIN}, {"type", SO_TYPE},
	    {"protocol", SO_PROTOCOL}, {"listens", SO_ACCEPTCONN}, {"netns", 71}};
	struct conn *c = l_check_req(L, 1)->conn;
	struct handover *h = c->peer.over;
	char text[NET_NAME_MAX];
	socklen_t len;

	if (h == NULL || h->id != 0)
		return 0;
	lua_newtable(L);
	for (size_t i = 0; i <= h->n; i++) {
		int fd = i == 0 ? c->peer.watch.fd : h->at[i - 1].watch.fd;

		lua_newtable(L);
		for (size_t k = 0; k < COUNT(facts); k++)
			if (len = 8, getsockopt(fd, SOL_SOCKET, facts[k].option, text, &len) == 0)
				l_set(L, facts[k].name, ((struct slice){text, len}));
		l_set(L, "at", ((struct slice){text, net_name(fd, text)}));
		lua_rawseti(L, -2, (lua_Integer)i + 1);
	}
	return 1;
}

/* req:take_over(agent, id, { "proxy" | "transparent" | "dns-tcp" | "dns-udp"… }) -> bool
 *
 * Serves what was handed over, for the agent, until the control connection ends. id: for handover.call. false: there
 * is no thread for it. */
static int
l_req_take_over(lua_State *L)
{
	static const char *const kinds[] = {"proxy", "transparent", "dns-tcp", "dns-udp", NULL};
	struct handover *h = l_check_req(L, 1)->conn->peer.over;
	pthread_t thread;

	luaL_checktype(L, 4, LUA_TTABLE);
	luaL_argcheck(L, h != NULL && h->id == 0 && (size_t)luaL_len(L, 4) == h->n, 4, "not what was handed over");
	h->id = luaL_checkinteger(L, 3);
	for (size_t i = 0; i < h->n; i++, lua_settop(L, 4)) {
		struct listener *l = &h->at[i];
		int fd = l->watch.fd, kind = (lua_geti(L, 4, (lua_Integer)i + 1), luaL_checkoption(L, -1, NULL, kinds));

		*l = (struct listener){.watch = {.fd = fd, .ready = handover_datagrams}, .at = net_end(fd, true),
		    .captures = kind == 1, .dns = kind == 2, .over = h, .host = "127.0.0.1"};
		text_copy(l->agent, sizeof l->agent, luaL_checkstring(L, 2));
		h->poll[i] = (struct pollfd){kind != 3 ? fd : -1, POLLIN, 0};
		h->live += kind != 3;
		if (kind == 3 && !watch_add(&l->watch, EPOLLIN))
			return l_answer(L, false);
	}
	h->threaded = sem_init(&h->room, 0, 0) == 0 && pthread_create(&thread, &job_attr, handover_accept, h) == 0;
	return l_answer(L, h->threaded);
}

/* ---- bind: request ---------------------------------------------------------
 * A request as the runtime sees it: what lua/pipeline.lua decides and C does, what is stripped,
 * rows, examples, and the tasks that C starts in lua/. Invariants: a request whose task fails, or
 * ends without an action, is answered by 502; the client's own credentials are stripped before a
 * policy's view is made, and rows are replaced before `apply` attaches secrets. A policy reaches
 * the view's members alone. Skip it unless you review lua/pipeline.lua, which calls these
 * functions. */

static int req_entry_ref[ENTRY_READING + 1];

static const char *const req_forms[] = {"connect", "absolute", "origin", "tunnel", "door"};

/* -- req: the decision */

static int
l_req_log_push(lua_State *L, bool late)
{
	struct req *r = l_check_req(L, 1);

	if (r->held && !late)
		return -1;
	r->too_many = r->held;
	if (r->too_many)
		req_unclaim(r);
	lua_pushstring(L, "waited");
	return r->too_many ? l_answer(L, false) : 1;
}

/* req:log{ agent=, requests=, bundle=, credential=, decision=, reason=, stripped=, ended=, error= }
 *   -> true | false | "waited"
 *
 * Notes the decision for the log's record, and takes a part of the agent's share of `requests`.
 * false: the share is in use, and any other answer than a refusal becomes 429. "waited": the
 * request waited for its turn, and the decision must be made again. A refusal, and a CONNECT that
 * is intercepted, take no part of the share. ended: the agent whose token has ended. Yields. */
static int
l_req_log(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	char agent[REQ_NAME_MAX] = "";
	const char *decision;

	luaL_checktype(L, 2, LUA_TTABLE);
	l_opt_name(L, 2, "agent", agent, sizeof agent);
	l_opt_name(L, 2, "bundle", r->bundle, sizeof r->bundle);
	l_opt_name(L, 2, "credential", r->credential, sizeof r->credential);
	l_opt_name(L, 2, "reason", r->reason, sizeof r->reason);
	l_opt_name(L, 2, "stripped", r->taken, sizeof r->taken);
	l_opt_name(L, 2, "behind", r->behind, sizeof r->behind);
	l_opt_name(L, 2, "error", r->code, sizeof r->code);
	lua_getfield(L, 2, "decision");
	decision = luaL_optstring(L, -1, r->form == REQ_CONNECT ? "deny" : "");
	r->allowed = strcmp(decision, "allow") == 0;
	if (!r->allowed)
		l_opt_name(L, 2, "ended", r->agent, sizeof r->agent);
	if (agent[0] != '\0')
		req_claim(r, agent, strcmp(decision, "deny") == 0 ? 0 :
		    (unsigned)l_integer(L, 2, "requests", AGENT_REQUESTS));
	if (r->task != NULL)            /* what reads a body as it streams decides without one */
		r->task->agent = text_hash(r->agent);
	if (!r->held)
		return l_answer(L, !r->too_many);
	lua_settop(L, 1);
	lua_pushinteger(L, clock_now() + AGENT_HELD_MS);
	return l_wait(L, l_req_log_push);
}

/* req:fail(status, code [, message [, hint [, { close=, retry_after=, fields= }]]])
 *
 * Answers with an error in DESIGN's form. close: the connection ends behind the answer.
 * retry_after: seconds. fields: more of them, { { name, value }… }. */
static int
l_req_fail(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	int status = (int)luaL_checkinteger(L, 2);
	const char *code = luaL_optstring(L, 3, "");

	if (lua_istable(L, 6)) {
		r->close_after = l_flag(L, 6, "close");
		r->retry_after = (int)l_integer(L, 6, "retry_after", 0);
		if (lua_getfield(L, 6, "fields") == LUA_TTABLE)
			l_req_fields(L, lua_gettop(L), r);
	}
	req_fail(r, status, code, slice_of(luaL_optstring(L, 4, "")),
	    slice_of(luaL_optstring(L, 5, "")));
	return 0;
}

/* req:respond(status, { { name, value }… }, body)
 *
 * Answers with these fields, beside Content-Length and Connection, and this body, a string or a secret of at
 * most 256 KiB. */
static int
l_req_respond(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	bool is_secret = false;
	struct slice body;

	r->status = (int)luaL_checkinteger(L, 2);
	r->answer_json = false;
	luaL_checktype(L, 3, LUA_TTABLE);
	l_req_fields(L, 3, r);
	body = l_check_value(L, 4, &is_secret);
	buf_clear(&r->answer);
	if (!buf_addv(&r->answer, body))
		return luaL_error(L, "answer of more than 256 KiB");
	r->action = REQ_REPLY;
	r->allowed = true;
	return 0;
}

/* The list of CIDR strings at table[key]; where there is none, *n stays. Raises for more than
 * NET_CIDRS_MAX. */
static void
l_read_cidrs(lua_State *L, int table, const char *key, struct cidr *out, size_t *n)
{
	if (lua_getfield(L, table, key) == LUA_TTABLE) {
		int list = lua_gettop(L);

		if (luaL_len(L, list) > NET_CIDRS_MAX)
			luaL_error(L, "more than %d addresses", NET_CIDRS_MAX);
		*n = 0;
		L_EACH(L, list, i) {
			if (!cidr_parse(l_check_text(L, -1), &out[*n]))
				luaL_error(L, "not a CIDR: %s", lua_tostring(L, -1));
			++*n;
		}
	}
	lua_pop(L, 1);
}

static struct l_type l_type_identity = {.name = "sallyport.identity"};

/* The identity (module tls) at table.tls, borrowed from it; NULL: none. */
static struct tls_ident *
l_opt_identity(lua_State *L, int table)
{
	struct tls_ident **id = NULL;

	if (lua_getfield(L, table, "tls") != LUA_TNIL)
		id = l_check_type(L, -1, &l_type_identity);
	lua_pop(L, 1);
	return id != NULL ? *id : NULL;
}

/* Sets the upstream to the host that the request names, and the allowed addresses and timeouts to
 * those of the table at 2. Notes the generation of the store that decided. */
static void
l_req_dial(lua_State *L, struct req *r)
{
	uint64_t state;

	luaL_checktype(L, 2, LUA_TTABLE);
	text_copy(r->dial_host, sizeof r->dial_host, r->host);
	l_opt_name(L, 2, "host", r->dial_host, sizeof r->dial_host);
	r->dial_port = (uint16_t)r->port;
	r->nallow = 0;
	l_read_cidrs(L, 2, "addresses", r->allow, &r->nallow);
	r->via = l_flag(L, 2, "via");
	r->http = (int)l_integer(L, 2, "http", 0);
	r->answer_ms = 1000 * l_integer(L, 2, "answer_timeout", conn_answer_ms / 1000);
	r->idle_ms = 1000 * l_integer(L, 2, "idle_timeout", conn_idle_ms / 1000);
	store_generations(&r->config, &state);
	r->judged = clock_now();
}

/* req:forward{ host=, tls=identity, addresses={cidr}, via=, watch=, websocket=, answer_timeout=s,
 *   idle_timeout=s }
 *
 * Forwards the request to its upstream. host: in place of the request's. via: through the upstream
 * proxy. watch: pipeline.answer is told of an answer of 400 or above. websocket: an upgrade is passed
 * on. */
static int
l_req_forward(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	struct tls_ident *ident;

	l_req_dial(L, r);
	ident = l_opt_identity(L, 2);
	tls_ident_unref(r->ident);
	r->ident = tls_ident_ref(ident);
	r->watch = l_flag(L, 2, "watch");
	if (!l_flag(L, 2, "websocket"))
		r->websocket = false;   /* goes on as an ordinary GET: nothing is upgraded */
	r->action = REQ_FORWARD;
	return 0;
}

/* req:intercept()
 *
 * Opens the tunnel of a CONNECT; its first byte decides between TLS and HTTP. */
static int
l_req_intercept(lua_State *L)
{
	l_check_req(L, 1)->action = REQ_INTERCEPT;
	return 0;
}

/* req:tunnel{ host=, addresses={cidr}, via=, raw=, answer_timeout=s, idle_timeout=s }
 *
 * Relays the bytes of a CONNECT's tunnel unread, without a credential; of a control connection the
 * request's, as it came, and all that comes behind it. host: in place of the request's; of a control
 * connection the path of a Unix socket. raw: no ClientHello is asked for. */
static int
l_req_tunnel(lua_State *L)
{
	struct req *r = l_check_req(L, 1);

	l_req_dial(L, r);
	r->action = REQ_BLIND;
	r->hello = l_flag(L, 2, "raw") ? HELLO_ANY : HELLO_MORE;
	return 0;
}

static int
l_req_read_body_push(lua_State *L, bool late)
{
	struct req *r = l_check_req(L, 1);

	if (r->body_reading && !late)
		return -1;
	if (r->body_read || (!r->body_reading && r->body_error == NULL)) {
		lua_grant(r->up_flow.enough != 0 ? r->body.n : 0);
		return l_two(L, (bool)true, r->up_flow.enough != 0 ? buf_slice(&r->body) : NO_SLICE);
	}
	late = r->body_reading;
	r->body_reading = false;
	r->close_after = true;
	return l_fail(L, late ? "timeout" : r->body_error);
}

/* req:read_body(max, deadline [, "begin" | "drop"])
 *   -> true, text | nil, "too_large" | "no_memory" | "malformed" | "eof" | "timeout"
 *
 * Reads the whole body, at most `max` bytes, into memory. begin: `max` bytes of it, or a few more, or all there is;
 * the rest streams behind them, or is read by another call. drop: the same, and what was read before is
 * forgotten. req.body_read says whether it ended. Yields. */
static int
l_req_read_body(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	size_t max = (size_t)luaL_checkinteger(L, 2);
	const char *how = luaL_optstring(L, 4, "");

	luaL_checkinteger(L, 3);
	lua_settop(L, 3);
	lua_remove(L, 2);
	if (*how == 'd' && !r->body_read)
		r->body.n = 0;
	if (!r->body_read && !r->body_reading && !req_begin_body(r, max, *how != '\0'))
		return l_fail(L, r->body_error);        /* the body is still on the wire: req_body_consumed */
	return l_wait(L, l_req_read_body_push);
}

/* req:tap(id, heard, head)
 *
 * answers.ended is told, under this id, that the answer has ended. heard: answers.heard is told each piece of its
 * body. head: answers.judge is asked about its head. */
static int
l_req_tap(lua_State *L)
{
	struct req *r = l_check_req(L, 1);

	r->told = luaL_checkinteger(L, 2);
	r->down_flow.tap = lua_toboolean(L, 3) ? r->told : 0;
	r->judges = lua_toboolean(L, 4);
	return 0;
}

/* req:reads(id)
 *
 * reading.piece is told each piece of the body before it goes on, under this id; 0: no more. */
static int
l_req_reads(lua_State *L)
{
	l_check_req(L, 1)->up_flow.reader = luaL_checkinteger(L, 2);
	return 0;
}

/* -- the module request: what a server may find in a name, a form, a JSON text */

/* request.second(name) -> kind | nil
 *
 * How lua/target.lua reads a field of that name for a second target. nil: such a field names none. */
static int
l_field_second(lua_State *L)
{
	uint16_t rule = http_field_rule(l_check_text(L, 1));

	return l_one(L, (rule & HDR_SECOND) != 0 ? second_kinds[rule >> 11 & 7] : NULL);
}

static void
look_form(struct job *j)
{
	struct edit *k = OWNER(j, struct edit, heavy.job);
	struct slice pair, raw;

	for (size_t at = 0; !k->answer && pair_next(k->in, &at, PAIR_AMP, &pair, &raw);)
		k->answer = pair_listed(k->names, pair) != 0;
}

static void
look_json(struct job *j)
{
	struct edit *k = OWNER(j, struct edit, heavy.job);
	struct json_spot spot;
	enum json_result res = json_find_spot(k->in, k->name, &spot);

	k->why = res == JSON_MALFORMED ? "malformed" : NULL;
	k->answer = spot.found || res == JSON_DUPLICATE;
}

/* Has one pair of the form that name, and a "{" in its value? */
static bool
form_has_document(struct slice in, struct slice want)
{
	struct slice pair, raw;
	char name[256];

	for (size_t at = 0; pct_ok(in) && pair_next(in, &at, PAIR_AMP, &pair, &raw);)
		if (slice_eq(pair_name(raw, name, sizeof name), want) &&
		    subst_has(&subst_form, pair_value(pair, raw), SLICE("{")))
			return true;
	return false;
}

static void
look_documents(struct job *j)
{
	struct edit *k = OWNER(j, struct edit, heavy.job);
	bool list, met = false, well = true, here = false;
	struct json_reader r;
	struct json_token t;
	size_t i = 0;

	while (i < k->in.n && memchr(" \t\n\v\f\r", k->in.p[i], 6) != NULL)
		i++;
	if (i == k->in.n || memchr("[{", k->in.p[i], 2) == NULL) {
		k->answer = form_has_document(k->in, k->name);
		return;
	}
	json_open(&r, k->in);
	list = json_next(&r, &t) == JSON_ARRAY;
	while (t.type != JSON_BAD && json_next(&r, &t) != JSON_BAD && t.type != JSON_END) {
		if (list && t.depth == 1 && t.type != JSON_CLOSE)
			well = well && t.type == JSON_OBJECT && !(met = false);
		else if (t.depth == 1u + list && t.type == JSON_KEY)
			here = json_spells(&t, k->name, false);
		else if (t.depth == 1u + list && t.type != JSON_CLOSE && here)
			met = well = well && t.type == JSON_STRING && subst_has(&subst_json, json_inside(&t), SLICE("{"));
		if (t.type == JSON_CLOSE && t.depth == list)
			well = well && met;
	}
	k->answer = t.type == JSON_END && well && met;
}

/* Looks in the text for a name, or for those of a list. Of a long text, yields. */
static int
l_look(lua_State *L, void (*run)(struct job *), bool list)
{
	struct edit *e = (lua_settop(L, 2), l_new(L, sizeof *e, 0, NULL));

	e->in = l_check_slice(L, 1);
	if (list)
		e->names = l_read_names(L, 2);
	else
		e->name = l_check_text(L, 2);
	return l_heavy(L, &e->heavy, e->in.n, run, l_edit_k);
}

/* request.form_names(text, { name… }) -> bool
 *
 * Does a pair of this form or query have one of these names to any server?
 *
 * request.json_has(text, name) -> bool | nil, "malformed"
 *
 * Does the top object have a member of that name, even to a lax reader? false where the text is
 * not an object.
 *
 * request.documents(text, name) -> bool
 *
 * Has the JSON object, or each object of the list, that member, and is it a string with a "{" wherever
 * it comes; or the form such a pair? */
static int l_form_names(lua_State *L) { return l_look(L, look_form, true); }
static int l_json_has(lua_State *L) { return l_look(L, look_json, false); }
static int l_documents(lua_State *L) { return l_look(L, look_documents, false); }

/* -- req: strip, and what was stripped */

static void
edit_strip(struct job *j)
{
	struct edit *e = OWNER(j, struct edit, heavy.job);

	keep_pairs(buf_slice(&e->r->body), e->names, SLICE(""), &e->out, NULL);
}

/* req:strip{ headers={[name]=true}, query={name…}, form={name…}, routing=bool, vhost=bool,
 *   trailers="name\n…" } -> bool
 *
 * Takes fields and pairs of these names out of the request; fields and the query's pairs become
 * view.stripped. Trailers of these names are dropped. routing: drops the fields that name another
 * method, path or host, too. vhost: drops those that name another host. Is a field left that names
 * a second target? Of a long form, yields. */
static int
l_req_strip(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	unsigned gone;
	bool named, second = false;
	struct edit *e;
	struct buf *b;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	gone = (l_flag(L, 2, "routing") ? HDR_ROUTING | HDR_VHOST : 0) | (l_flag(L, 2, "vhost") ? HDR_VHOST : 0);
	named = lua_getfield(L, 2, "headers") == LUA_TTABLE;
	if (r->head.body == BODY_CHUNKED && lua_getfield(L, 2, "trailers") == LUA_TSTRING &&
	    !buf_addv(&r->stripped_names, l_check_text(L, -1)))
		luaL_error(L, "strip names too many headers");
	lua_settop(L, 3);
	for (size_t i = 0; i < r->head.nfields; i++) {
		struct http_field *f = &r->head.field[i];

		if (f->mark != FIELD_KEPT || f->own != NULL)
			continue;
		if ((f->rule & gone) != 0) {
			f->mark = FIELD_DROPPED;
			continue;
		}
		if (named) {
			l_push_name(L, f->name, name_fold);
			if (lua_rawget(L, 3) != LUA_TNIL)
				f->mark = FIELD_STRIPPED;
			lua_pop(L, 1);
		}
		second = second || (f->mark == FIELD_KEPT && (f->rule & HDR_SECOND) != 0);
	}
	if (lua_getfield(L, 2, "query") == LUA_TTABLE && r->query.n != 0) {
		b = l_text(L, true, r->query.n);
		keep_pairs(r->query, l_read_names(L, 4), SLICE(""), b, &r->stripped_query);
		if (!buf_ok(&r->stripped_query))
			return luaL_error(L, "no room for the query");
		if (b->n != r->query.n)
			l_set_query(L, r);
	}
	lua_settop(L, 4);
	if (lua_getfield(L, 2, "form") != LUA_TTABLE || !r->body_read || r->body.n == 0)
		return l_answer(L, second);
	e = l_new(L, sizeof *e, 0, NULL);
	e->r = r;
	e->names = l_read_names(L, 5);
	e->answer = second;
	buf_init(&e->out, r->body.max);
	return l_heavy(L, &e->heavy, r->body.n, edit_strip, l_edit_k);
}

/* Does one of the list's { text = … } stand in `v`, written in this code? NULL: `v` is a field's value, or
 * the plain text of its Basic credentials. */
static bool
l_bears_one(lua_State *L, int list, struct slice v, const struct subst_code *code)
{
	struct buf plain = {.max = 0};
	bool basic = code == NULL && http_basic(v, &plain), found = false;
	int top = lua_gettop(L);

	for (lua_Integer i = 1; !found && lua_geti(L, list, i) == LUA_TTABLE; i++) {
		struct slice what = (lua_getfield(L, -1, "text"), l_check_text(L, -1));

		found = subst_has(code != NULL ? code : &subst_plain, v, what) || (basic && slice_has(buf_slice(&plain), what));
		lua_settop(L, top);
	}
	buf_free(&plain);
	lua_settop(L, top);
	return found;
}

/* req:presents({ { text = … }… }) -> bool
 *
 * Does one of the texts stand in a header (Basic is decoded), in the path, in the query or in a
 * body that was read? */
static int
l_req_presents(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	bool found = l_bears_one(L, 2, r->query, &subst_form) || l_bears_one(L, 2, r->path, &subst_path) ||
	    (r->body_read && l_bears_one(L, 2, buf_slice(&r->body), &subst_plain));

	for (const struct http_field *f = r->head.field; !found && f < r->head.field + r->head.nfields; f++)
		found = (f->rule & (HDR_HOP | HDR_PROXY)) == 0 && f->own == NULL && l_bears_one(L, 2, f->value, NULL);
	return l_answer(L, found);
}

/* req:taken({ { text = … }… }, names, list) -> bool
 *
 * Adds to `list` the names of the fields that strip took, and as "?name" those of `names` whose
 * pairs it took from the query. A field or pair in which one of the texts stands is left out. Is
 * the list not empty? */
static int
l_req_taken(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	struct slice all = buf_slice(&r->stripped_query), pair, raw;
	lua_Integer n = luaL_len(L, 4);
	const struct names *names = l_read_names(L, 3);

	for (const struct http_field *f = r->head.field; f < r->head.field + r->head.nfields; f++) {
		if (f->mark != FIELD_STRIPPED || l_bears_one(L, 2, f->value, NULL))
			continue;
		l_push_name(L, f->name, name_fold);
		lua_seti(L, 4, ++n);
	}
	for (size_t at = 0; pair_next(all, &at, PAIR_AMP, &pair, &raw);) {
		lua_Integer i = (lua_Integer)pair_listed(names, pair);

		if (i == 0 || l_bears_one(L, 2, pair, &subst_form))
			continue;
		lua_geti(L, 3, i);
		lua_pushfstring(L, "?%s", lua_tostring(L, -1));
		lua_seti(L, 4, ++n);
	}
	return l_answer(L, n != 0);
}

/* req:unstrip()
 *
 * Puts back the fields and pairs that strip took. An edited query is lost. */
static int
l_req_unstrip(lua_State *L)
{
	struct req *r = l_check_req(L, 1);

	for (size_t i = 0; i < r->head.nfields; i++)
		if (r->head.field[i].mark == FIELD_STRIPPED)
			r->head.field[i].mark = FIELD_KEPT;
	secret_drop(&r->new_query);
	buf_clear(&r->stripped_query);
	return 0;
}

/* -- req and view: members */

/* Pushes a part of the view, which is made once and kept as this user value. The runtime strips
 * before it makes a view, so `stripped` is complete: { headers = { lower-case name = value }, query = { name = value } },
 * the client's fields and pairs that strip took. */
static void
l_view_push_part(lua_State *L, struct req *r, int slot)
{
	struct slice all = buf_slice(&r->stripped_query), pair, raw;
	char name[256];

	if (lua_getiuservalue(L, 1, slot) != LUA_TNIL)
		return;
	if (slot == L_VIEW_STRIPPED) {
		lua_createtable(L, 0, 2);
		l_push_fields(L, r, FIELD_STRIPPED);
		lua_setfield(L, -2, "headers");
		lua_newtable(L);
		for (size_t at = 0; pair_next(all, &at, PAIR_AMP, &pair, &raw);) {
			l_push_slice(L, pair_name(raw, name, sizeof name));
			l_push_decoded(L, pair_value(pair, raw), PCT_QUERY);
			lua_rawset(L, -3);
		}
		lua_setfield(L, -2, "query");
	} else {
		l_new(L, 0, 1, slot == L_VIEW_HEADERS ? &l_type_headers : &l_type_query);
		lua_getiuservalue(L, 1, 1);
		lua_setiuservalue(L, -2, 1);
	}
	lua_pushvalue(L, -1);
	lua_setiuservalue(L, 1, slot);
}

/* A row: the member's name, how it is pushed, where it lies in struct req (of M_PART: its user
 * value), and who reads it. */
enum l_member_is { M_SLICE, M_TEXT, M_FLAG, M_PORT, M_SCHEME, M_FORM, M_BODY_KIND, M_LENGTH,
	M_HAS_BODY, M_BODY, M_PART, M_QUERY_TEXT, M_QUERY_CAME, M_MCP, M_EPOCHS };
/* OF_STREAM: pipeline.rejudge, of a stream that is judged again. OF_SEEN: what rules see (req:seen). */
enum { OF_REQ = 1, OF_VIEW = 2, OF_BOTH = 3, OF_STREAM = 4, OF_SEEN = 8, OF_ALL = 15 };
static const struct { const char *name; enum l_member_is is; size_t at; int of; } l_members[] = {
	{"method", M_SLICE, offsetof(struct req, head.method), OF_ALL},
	{"path", M_SLICE, offsetof(struct req, path), OF_ALL},
	{"query", M_SLICE, offsetof(struct req, query), OF_REQ},
	{"query_string", M_SLICE, offsetof(struct req, query), OF_VIEW},
	{"host", M_TEXT, offsetof(struct req, host), OF_ALL},
	{"token", M_TEXT, offsetof(struct req, token), OF_REQ | OF_STREAM},
	{"agent", M_TEXT, offsetof(struct req, agent), OF_STREAM},
	{"bundle", M_TEXT, offsetof(struct req, bundle), OF_STREAM},
	{"credential", M_TEXT, offsetof(struct req, credential), OF_STREAM},
	{"id", M_TEXT, offsetof(struct req, id), OF_REQ},
	{"websocket", M_FLAG, offsetof(struct req, websocket), OF_REQ | OF_STREAM | OF_SEEN},
	{"unsealed", M_EPOCHS, 0, OF_STREAM}, {"mcp", M_MCP, 0, OF_STREAM},
	{"port", M_PORT, 0, OF_ALL}, {"scheme", M_SCHEME, 0, OF_ALL},
	{"form", M_FORM, 0, OF_REQ | OF_STREAM}, {"length", M_LENGTH, 0, OF_REQ | OF_SEEN},
	{"body_kind", M_BODY_KIND, 0, OF_BOTH},
	{"body_read", M_FLAG, offsetof(struct req, body_read), OF_REQ},
	{"has_body", M_HAS_BODY, 0, OF_BOTH | OF_SEEN}, {"body", M_BODY, 0, OF_BOTH},
	{"headers", M_PART, L_VIEW_HEADERS, OF_VIEW}, {"query", M_PART, L_VIEW_QUERY, OF_VIEW},
	{"stripped", M_PART, L_VIEW_STRIPPED, OF_VIEW}, {"query_text", M_QUERY_TEXT, 0, OF_VIEW},
	{"query_text", M_QUERY_CAME, 0, OF_SEEN},
};

static void
l_push_member(lua_State *L, struct req *r, size_t row)
{
	static const char *const kinds[] = {
		[BODY_NONE] = "none", [BODY_LENGTH] = "length", [BODY_CHUNKED] = "chunked",
	};
	size_t at = l_members[row].at;
	const char *p = (const char *)r + at;

	switch (l_members[row].is) {
	case M_SLICE:     l_push_slice(L, *(const struct slice *)(const void *)p); break;
	case M_TEXT:      l_push(L, L_TEXT(p)); break;
	case M_FLAG:      lua_pushboolean(L, *(const bool *)p); break;
	case M_PORT:      lua_pushinteger(L, r->port); break;
	case M_EPOCHS:    lua_pushinteger(L, r->unsealed); break;
	case M_SCHEME:    lua_pushstring(L, r->secure ? "https" : "http"); break;
	case M_FORM:      lua_pushstring(L, req_forms[r->form]); break;
	case M_BODY_KIND: lua_pushstring(L, kinds[r->head.body]); break;
	case M_HAS_BODY:  lua_pushboolean(L, req_has_body(r)); break;
	case M_PART:      l_view_push_part(L, r, (int)at); break;
	case M_MCP:       l_push_slice(L, r->mcp != NULL ? buf_slice(&r->mcp->note) : SLICE("")); break;
	case M_QUERY_CAME: l_push_slice(L, r->query.p != NULL ? r->query : SLICE("")); break;
	case M_LENGTH:
		r->head.body == BODY_LENGTH ? lua_pushinteger(L, (lua_Integer)r->head.length) : lua_pushnil(L);
		break;
	case M_BODY:
		if (!r->body_read)
			lua_pushnil(L);
		else if (r->body_secret)
			l_push_secret_copy(L, buf_slice(&r->body));
		else {
			lua_grant(r->body.n);
			lua_pushlstring(L, r->body.n != 0 ? r->body.p : "", r->body.n);
		}
		break;
	case M_QUERY_TEXT:      /* as it will go out: a secret once it was edited; nil: there is none */
		if (r->new_query == NULL)
			l_push_slice(L, r->query);
		else if (r->new_query->n == 0)
			lua_pushnil(L);
		else
			l_push_secret(L, secret_ref(r->new_query));
		break;
	}
}

/* req.NAME. Upvalue 1 maps a name to a method, or to a row of l_members. */
static int
l_req_index(lua_State *L)
{
	struct req_handle *h = lua_touserdata(L, 1);

	if (h->r == NULL)
		return luaL_error(L, "request is closed");
	lua_settop(L, 2);
	if (lua_rawget(L, lua_upvalueindex(1)) == LUA_TNUMBER)
		l_push_member(L, h->r, (size_t)lua_tointeger(L, -1));
	return 1;
}

/* seen.NAME, of a rule. Upvalues: as for l_req_index, and the handle. */
static int
l_seen_index(lua_State *L)
{
	lua_pushvalue(L, lua_upvalueindex(2));
	lua_replace(L, 1);
	return l_req_index(L);
}

/* seen.headers:get(name [, n]), of a rule. Upvalue: view.headers. */
static int
l_seen_get(lua_State *L)
{
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_replace(L, 1);
	return l_headers_get(L);
}

/* req:seen(view.headers) -> function, function
 *
 * Two functions for the tables that a rule sees in the place of the request, which it cannot change: `__index` for its
 * members as they came, and `get` for its fields. Upvalue 1 is as for l_req_index. */
static int
l_req_seen(lua_State *L)
{
	l_check_req(L, 1);
	l_check_type(L, 2, &l_type_headers);
	lua_settop(L, 2);
	lua_pushvalue(L, lua_upvalueindex(1));
	lua_pushvalue(L, 1);
	lua_pushcclosure(L, l_seen_index, 2);
	lua_insert(L, 2);
	lua_pushcclosure(L, l_seen_get, 1);
	return 2;
}

/* view.NAME. Upvalue 1 is as for l_req_index; an unknown name raises. All reads but that of
 * `headers` are noted, for req:keep. */
static int
l_view_index(lua_State *L)
{
	struct req *r = l_check_part(L, 1, &l_type_view);

	r->looked |= strcmp(luaL_checkstring(L, 2), "headers") != 0;
	lua_settop(L, 2);
	lua_pushvalue(L, 2);
	if (lua_rawget(L, lua_upvalueindex(1)) == LUA_TNIL)
		return luaL_error(L, "a request has no %s", lua_tostring(L, 2));
	if (lua_type(L, 3) == LUA_TNUMBER)
		l_push_member(L, r, (size_t)lua_tointeger(L, 3));
	return 1;
}

/* Replaces the table of methods on top by a closure of `index`. */
static void
l_push_index(lua_State *L, int of, lua_CFunction index)
{
	for (size_t i = 0; i < COUNT(l_members); i++)
		if ((l_members[i].of & of) != 0)
			l_set(L, l_members[i].name, (lua_Integer)i);
	lua_pushcclosure(L, index, 1);
}

#ifdef SALLYPORT_TEST
#include "tests/filters.h"
#else
#define FILTER_OF_TESTS
#endif

static const luaL_Reg l_view_methods[] = {
	FILTER_OF_TESTS {"sigv4", l_view_sigv4},
	{"splice_json", l_view_splice_json}, {"splice_form", l_view_splice_form}, {NULL, NULL},
};

/* view.body = string | secret
 *
 * Sets the request's body. Raises for any other member, and where the type did not declare `body`. */
static int
l_view_newindex(lua_State *L)
{
	struct req *r = l_check_part(L, 1, &l_type_view);
	const char *name = luaL_checkstring(L, 2);
	bool is_secret = false;
	struct slice body;
	struct buf out;

	if (strcmp(name, "body") != 0)
		return luaL_error(L, "a policy cannot set the request's %s", name);
	body = l_check_value(L, 3, &is_secret);
	if (!r->body_read)
		return luaL_error(L, "a type that sets the body declares body");
	buf_init(&out, body.n);
	if (!buf_addv(&out, body) || !req_take_body(r, &out, true)) {
		buf_free(&out);
		return luaL_error(L, "no room for the body");
	}
	r->looked = true;
	r->body_set = true;
	r->body_secret = is_secret;
	return 0;
}

/* req:view([true]) -> view
 *
 * The policy's view. true: reads of this request are noted from now on, for req:keep. The request
 * does not hold its view: the collector frees two objects that hold each other a cycle later if
 * one of them has a finalizer. */
static int
l_req_view(lua_State *L)
{
	struct req *r = l_check_req(L, 1);

	r->looked = r->looked && !lua_toboolean(L, 2);
	l_new(L, 0, 4, &l_type_view);
	lua_pushvalue(L, 1);
	lua_setiuservalue(L, -2, 1);
	return 1;
}

/* req:target() -> secret, bool, bool
 *
 * Path and query as they would go out. Was the path edited, and was the query? */
static int
l_req_target(lua_State *L)
{
	struct req *r = l_check_req(L, 1);

	req_put_target(r, l_text(L, true, req_path_now(r).n + 1 + req_query_now(r).n));
	l_text_push(L);
	return 1 + l_two(L, (bool)(r->new_path != NULL), (bool)(r->new_query != NULL));
}

/* -- rows: placeholders in the client's parts of the request become secrets. Rows run after strip
 * and before `apply`, so that no row replaces bytes within the secrets that apply attaches. */

/* request.places = { name = number }: the places of rows. */
static const char *const l_places[] = {
	[PLACE_HEADER] = "header", [PLACE_BASIC] = "basic", [PLACE_QUERY] = "query", [PLACE_PATH] = "path",
	[PLACE_FORM] = "form", [PLACE_PART] = "part", [PLACE_JSON] = "json", [PLACE_WS] = "ws", [PLACE_COOKIE] = "cookie", NULL
};

/* Reads row i of the list into s, which owns the texts. */
static void
l_read_row(lua_State *L, int rows, lua_Integer i, struct subst *s, bool seals)
{
	struct subst_row *row = &s->row[s->n];
	lua_Integer place;

	lua_geti(L, rows, i);
	for (int k = 1; k <= 8; k++)
		lua_geti(L, -k, k);
	row->placeholder = l_check_text(L, -8);
	row->secret = l_test_secret(L, -7);
	place = luaL_checkinteger(L, -6);
	row->name = lua_isnil(L, -5) ? SLICE("") : l_check_text(L, -5);
	row->from = (size_t)luaL_optinteger(L, -4, 0);
	row->to = (size_t)luaL_optinteger(L, -3, 0);
	row->locked = lua_isinteger(L, -2) ? lua_tointeger(L, -2) : lua_toboolean(L, -2);
	row->jwt = lua_toboolean(L, -1);
	if (place < 0 || place >= PLACES + seals || (seals ? row->name.n == 0 || row->placeholder.n > SEAL_PREFIX_MAX :
	    row->secret == NULL || row->placeholder.n == 0))
		luaL_error(L, seals ? "a member is { prefix, nil, place, name, row, group, ends, jwt }" :
		    "a row is { placeholder, secret, place, name, from, to }");
	if (!buf_addv(&s->text, row->placeholder) || !buf_addv(&s->text, row->name))
		luaL_error(L, "placeholders and names of more than %d KiB", SUBST_TEXT_MAX / 1024);
	row->place = (enum subst_place)place;
	if (row->secret != NULL)
		secret_ref(row->secret);
	s->n++;
	lua_pop(L, 9);
}

/* Reads the rows into *owner, which owns them from the start: what follows may raise. */
static struct subst *
l_read_rows(lua_State *L, int rows, struct subst **owner, bool seals)
{
	lua_Integer n = luaL_len(L, rows);
	struct subst *s = calloc(1, sizeof *s);
	size_t at = 0;

	if (s == NULL)
		luaL_error(L, "out of memory");
	subst_free(*owner);
	*owner = s;
	buf_init(&s->text, SUBST_TEXT_MAX);
	if (n > SUBST_ROWS_MAX)
		luaL_error(L, "more than %d rows", SUBST_ROWS_MAX);
	for (lua_Integer i = 1; i <= n; i++)
		l_read_row(L, rows, i, s, seals);
	for (size_t i = 0; i < s->n; i++) {
		s->row[i].placeholder.p = s->text.p + at;       /* from now on the buffer does not move */
		s->row[i].name.p = s->text.p + at + s->row[i].placeholder.n;
		at += s->row[i].placeholder.n + s->row[i].name.n;
	}
	return s;
}

/* Notes that an answer gets the client's text in the place of each secret that the run put in. `sealed`: of opened
 * ones alone, for req:hide notes the others. */
static bool
req_note_hits(struct req *r, const struct subst_run *t, bool sealed)
{
	bool ok = true;

	for (size_t i = 0; ok && i < r->subst->n; i++) {
		const struct subst_row *row = &r->subst->row[i];

		if ((t->hits >> i & 1) == 0 || (sealed && !row->locked))
			continue;
		r->unsealed |= row->locked;
		ok = scrub_add(&r->back, row->secret, 0, row->locked ? row->placeholder : t->sent[i], SLICE(""), row->locked);
	}
	return ok;
}

/* Replaces in the path or the query, and sets *now. False: no room, or too many secrets. */
static bool
req_subst_target(struct req *r, enum subst_place place, struct slice in, struct secret **now)
{
	struct buf out = {.max = PEER_HEAD_MAX, .secret = true};
	struct subst_run t = {.s = r->subst, .in = in, .out = &out};
	struct secret *s;
	bool ok;

	if (place == PLACE_PATH)
		subst_spans(&t, place);
	else
		subst_pairs(&t, place);
	ok = buf_ok(&out) && req_note_hits(r, &t, false);
	s = ok && t.hits != 0 ? buf_take_secret(&out) : NULL;
	buf_free(&out);
	if (s == NULL)
		return ok && t.hits == 0;
	secret_drop(now);
	*now = s;
	return true;
}

static bool
req_subst_field(struct req *r, struct http_field *f)
{
	struct buf out;
	struct subst_run t = {.s = r->subst, .in = f->value, .out = &out};
	bool ok;

	buf_init(&out, PEER_HEAD_MAX);
	subst_header(&t, f->name);
	ok = buf_ok(&out) && (t.hits == 0 || (http_valid_field_value(buf_slice(&out)) &&
	    field_set(f, f->name, buf_slice(&out), true) && req_note_hits(r, &t, true)));
	buf_free(&out);
	return ok;
}

static bool
req_subst_headers(struct req *r)
{
	for (struct http_field *f = r->head.field; f < r->head.field + r->head.nfields; f++)
		/* A stripped field counts: it holds our placeholder, and goes out as the row says. */
		if (f->mark != FIELD_DROPPED && f->own == NULL && (f->rule & (HDR_FIXED | HDR_HOP)) == 0 &&
		    !req_subst_field(r, f))
			return false;
	return true;
}

/* The kind of the request's body. SUBST_OTHER: rows leave the body alone, or there is none. */
static enum subst_kind
req_subst_kind(const struct req *r)
{
	int type = http_find(&r->head, SLICE("content-type"), 0);
	int code = http_find(&r->head, SLICE("content-encoding"), 0);

	if (r->head.body == BODY_NONE || type < 0 ||
	    http_find(&r->head, SLICE("content-type"), (size_t)type + 1) >= 0 ||
	    (code >= 0 && !slice_eq_nocase(r->head.field[code].value, SLICE("identity"))))
		return SUBST_OTHER;
	return subst_kind_of(r->head.field[type].value);
}

static void
edit_rows(struct job *j)
{
	struct edit *e = OWNER(j, struct edit, heavy.job);
	struct subst_run *t = &e->run;
	bool well;

	t->s = e->r->subst;
	t->in = buf_slice(&e->r->body);
	t->out = &e->out;
	buf_init(&e->out, t->in.n + SUBST_GROW_MAX);
	well = subst_body(t, req_subst_kind(e->r));
	for (size_t i = 0; !well && i < t->s->n; i++)
		t->hits |= subst_has(&subst_plain, t->in, t->s->row[i].placeholder);
	/* a malformed body without a placeholder goes out as it came */
	e->why = !buf_ok(&e->out) ? "body" : !well && t->hits != 0 ? "malformed" : NULL;
	e->answer = well && t->hits != 0;
}

static int
l_req_substitute_k(lua_State *L, void *heavy)
{
	struct edit *e = heavy;

	if (e->why == NULL && e->answer && !(req_take_body(e->r, &e->out, true) && req_note_hits(e->r, &e->run, true)))
		e->why = "body";
	buf_free(&e->out);
	return e->why == NULL ? l_answer(L, true) : l_fail(L, e->why);
}

/* req:substitute{ { placeholder, secret, place, name, from, to }… }
 *   -> true | nil, "header" | "path" | "query" | "body" | "malformed"
 *
 * Puts secrets in the place of placeholders. place: one of request.places. name: the field's or
 * parameter's, or the steps to a member, a NUL behind each. from, to: the bytes of the path, or of
 * a part of the body, that are the place, counted from 0 and in their order. "header", "path",
 * "query", "body": the secret cannot stand there, or there is no room. "malformed": the body is
 * not what its type says. With a long body, yields. */
static int
l_req_substitute(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	struct edit *e;
	const struct subst *s;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	s = l_read_rows(L, 2, &r->subst, false);
	e = l_new(L, sizeof *e, 0, NULL);
	e->r = r;
	if (r->websocket && subst_places(s, 1u << PLACE_WS))
		/* a deflated message would hide the placeholders in it */
		req_remove_field(r, SLICE("sec-websocket-extensions"));
	if (subst_places(s, 1u << PLACE_HEADER | 1u << PLACE_BASIC) && !req_subst_headers(r))
		e->why = "header";
	else if (subst_places(s, 1u << PLACE_PATH) &&
	    !req_subst_target(r, PLACE_PATH, req_path_now(r), &r->new_path))
		e->why = "path";
	else if (subst_places(s, 1u << PLACE_QUERY) && r->query.p != NULL &&
	    !req_subst_target(r, PLACE_QUERY, req_query_now(r), &r->new_query))
		e->why = "query";
	else if (r->body_read && subst_places(s, 1u << PLACE_FORM | 1u << PLACE_PART | 1u << PLACE_JSON))
		return l_heavy(L, &e->heavy, r->body.n, edit_rows, l_req_substitute_k);
	return l_req_substitute_k(L, e);
}

/* req:text_kind() -> "json" | "form" | "part" | nil
 *
 * The place of rows that the body is, by its Content-Type. */
static int
l_req_text_kind(lua_State *L)
{
	static const char *const kinds[] = {[SUBST_JSON] = "json", [SUBST_LINES] = "json", [SUBST_FORM] = "form",
	    [SUBST_PARTS] = "part"};

	return l_one(L, kinds[req_subst_kind(l_check_req(L, 1))]);
}

/* req:scrub(mode | nil)
 *
 * Which bodies of answers are searched for what gets attached: "head" and "off": none; "all"; nil: texts, and
 * others of up to 1 MiB. The request then asks for codings that can be searched alone. */
static int
l_req_scrub(lua_State *L)
{
	static const char *const modes[] = {"text", "head", "off", "all", NULL};
	struct req *r = l_check_req(L, 1);

	r->scrub = luaL_checkoption(L, 2, "text", modes);
	req_ask_readable(r);
	return 0;
}

/* req:hide(secrets, made, text) -> bool
 *
 * An answer that repeats one of the secrets, or a secret that apply set in a field, gets this text in its
 * place. made: secrets that a machine made, of which a body shows the short ones neither. A field's secret counts without the scheme before it (RFC 9110 11.4), as
 * servers repeat it. Called last: of several texts that are noted for a secret the first counts.
 * false: too many secrets. */
static int
l_req_hide(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	struct slice text = l_check_text(L, 4);
	bool ok = true;

	for (int list = 2; list <= 3; list++)
		for (lua_Integer i = 1; ok && lua_geti(L, list, i) != LUA_TNIL; i++) {
			struct secret *s = l_test_secret(L, -1);

			ok = s == NULL || scrub_add(&r->back, s, 0, text, SLICE(""), list == 3);
			lua_pop(L, 1);
		}
	for (const struct http_field *f = r->head.field; ok && f < r->head.field + r->head.nfields; f++) {
		struct slice v = f->value;
		size_t skip = 0;

		while (f->is_secret && skip < v.n && (ascii_alnum(v.p[skip]) || v.p[skip] == '-'))
			skip++;
		skip = skip < v.n && v.p[skip] == ' ' ? skip + 1 : 0;
		if (f->is_secret)
			ok = scrub_add(&r->back, f->own, f->name.n + skip, text, SLICE(""), false);
	}
	if (r->back != NULL)
		r->back->whose = text_hash(r->agent) + 31 * text_hash(r->credential);
	return l_answer(L, ok);
}

/* -- sealed texts: the section seal */

/* The id of 32 hexadecimal digits and the epoch at table.NAME and table.NAME_epoch. */
static void
l_read_id(lua_State *L, const char *name, uint8_t id[STORE_ID], uint8_t epoch[8])
{
	lua_getfield(L, 2, name);
	lua_getfield(L, 2, lua_pushfstring(L, "%s_epoch", name));
	if (l_check_text(L, -3).n != 2 * STORE_ID || !hex_decode(id, l_check_text(L, -3)))
		luaL_error(L, "%s is no id", name);
	store_be64(epoch, (uint64_t)luaL_checkinteger(L, -1));
	lua_settop(L, 2);
}

/* req:seal{ agent=, agent_epoch=, credential=, credential_epoch=, max=s, default=s, no_later=Unix s | nil,
 *   members={ { prefix, nil, place, name, row, group, ends, jwt }… } }
 *
 * The answer is read whole, and its secrets are sealed for this agent and credential, whose ids and epochs
 * these are. prefix: stands before each text; "": nothing. place: json (name: the steps, a NUL behind each;
 * "*": any element), form, header or cookie of request.places. row: an integer of 32 bits that every text
 * tells. group: of each one member at least must be in a 2xx; 0: the member is optional. ends: no secret,
 * but when those of the same row end; where nothing tells: in `default`, at most in `max`, seconds. jwt: of
 * a JWT header and claims stay. The request asks for an answer that can be read. Called last. */
static int
l_req_seal(lua_State *L)
{
	static const char *const gone[] = {"range", "if-range", "if-none-match", "if-modified-since", "a-im"};
	struct req *r = l_check_req(L, 1);
	struct seal *s;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	if (store.keys == NULL || r->kept != NULL || r->mcp != NULL || (s = calloc(1, sizeof *s)) == NULL)
		return luaL_error(L, "nothing can be sealed");
	seal_free(r->seal);
	r->seal = s;
	buf_init(&s->text, SEAL_BODY_MAX);
	l_read_id(L, "agent", s->head + 29, s->epochs);
	l_read_id(L, "credential", s->head + 45, s->epochs + 8);
	s->max = l_integer(L, 2, "max", 86400);
	s->none = l_integer(L, 2, "default", 3600);
	s->no_later = l_integer(L, 2, "no_later", INT64_MAX);
	lua_getfield(L, 2, "members");
	l_read_rows(L, 3, &s->rows, true);
	for (size_t i = 0; i < COUNT(gone); i++)
		req_remove_field(r, slice_of(gone[i]));
	if (!req_set_field(r, SLICE("accept-encoding"), SLICE("identity"), false))
		return luaL_error(L, "out of memory, or too many fields");
	return 0;
}

/* req:sealed() -> bool
 *
 * May a sealed text stand in the head, Basic decoded, or in a body that was read, up to 1 MiB? */
static int l_req_sealed(lua_State *L) { return l_answer(L, req_sealed(l_check_req(L, 1))); }

/* request.unseal(text, { agent=, agent_epoch=, credential=, credential_epoch= }) -> secret | nil, "unsealable"
 *
 * Opens the sealed text that all of the string is, if it is for this agent and credential, by ids and epochs. */
static int
l_unseal(lua_State *L)
{
	struct slice in = l_check_text(L, 1);
	uint8_t ids[2 * STORE_ID], epochs[16];
	struct secret *s = NULL;
	struct sealed t;
	size_t at = 0;

	luaL_checktype(L, 2, LUA_TTABLE);
	lua_settop(L, 2);
	l_read_id(L, "agent", ids, epochs);
	l_read_id(L, "credential", ids + STORE_ID, epochs + 8);
	if (seal_next(in, &at, &t) && t.text.n == in.n && memcmp(t.head + 29, ids, sizeof ids) == 0)
		s = seal_open(&t, epochs);
	if (s == NULL)
		return l_fail(L, "unsealable");
	l_push_secret(L, s);
	return 1;
}

/* -- known placeholders: the section known as a userdata */
static struct l_type l_type_known = {.name = "sallyport.known"};
#define L_LABEL_MAX 1024        /* two names and a variable's */

/* request.known() -> set
 *
 * An empty set of placeholders. */
static int
l_known_new(lua_State *L)
{
	struct known *k = l_new(L, sizeof *k, 0, &l_type_known);

	k->text.max = 64u << 20;
	return 1;
}

static int
l_known_gc(lua_State *L)
{
	known_wipe(l_check_type(L, 1, &l_type_known));
	return 0;
}

/* set:add(name, shape, before, after)
 *
 * Adds store.placeholder(shape, before .. name .. after) under this name. */
static int
l_known_add(lua_State *L)
{
	struct known *k = l_check_type(L, 1, &l_type_known);
	struct slice name = l_check_text(L, 2), shape = l_check_text(L, 3), parts[3] = {l_check_text(L, 4), name, l_check_text(L, 5)};
	char text[STORE_SHAPE_MAX], room[L_LABEL_MAX];
	struct buf label = {.p = room, .cap = sizeof room, .max = sizeof room};
	size_t n, stop;

	if (!buf_join(&label, parts, 3))
		return luaL_error(L, "a name that is too long");
	if (store_placeholder(shape, buf_slice(&label), text, &n, &stop) != STORE_OK)
		return luaL_error(L, "placeholders cannot be told: the store is locked");
	if (!known_add(k, name, (struct slice){text, n}, stop < KNOWN_KEY ? KNOWN_KEY : stop))
		return luaL_error(L, "no room for placeholders");
	return 0;
}

/* set:drop(name) -> integer
 *
 * Takes out the placeholders of that name. Answers how many the set has lost so far. */
static int
l_known_drop(lua_State *L)
{
	struct known *k = l_check_type(L, 1, &l_type_known);

	known_drop(k, l_check_text(L, 2));
	return l_one(L, k->dropped);
}

/* req:known(set) -> name…
 *
 * The names of the set's placeholders in the path, the query and the headers that go out, 16 at
 * most. */
static int
l_req_known(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	const struct known *k = l_check_type(L, 2, &l_type_known);
	struct known_found found = {.n = 0};
	bool ok = known_scan_encoded(k, req_path_now(r), &found) &&
	    known_scan_encoded(k, req_query_now(r), &found);

	for (const struct http_field *f = r->head.field; f < r->head.field + r->head.nfields; f++)
		if (f->mark == FIELD_KEPT)
			known_scan_value(k, f->value, &found);
	if (!ok)
		return luaL_error(L, "out of memory");
	for (size_t i = 0; i < found.n; i++)
		l_push_slice(L, known_name(k, found.id[i]));
	return (int)found.n;
}

static const luaL_Reg l_known[] = {{"add", l_known_add}, {"drop", l_known_drop}, {NULL, NULL}};

/* -- kept decisions */

/* req:again(credential | nil) -> bool, route | nil
 *
 * Of a request that the door hands on: is it decided as an earlier one like it, by that credential, and without a rule's
 * word? route: as of pipeline.request. */
static int
l_req_again(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	const char *only = luaL_optstring(L, 2, NULL);
	const struct kept *k = *kept_slot(r, r->head.nfields);
	char room[KEPT_ROUTE_MAX];

	for (size_t i = 0; i < r->head.nfields; i++)
		r->head.field[i].door = r->head.field[i].own != NULL;
	l_answer(L, k != NULL && (only == NULL || strcmp(k->decided + offsetof(struct req, credential) - KEPT_BEGIN, only) == 0) &&
	    kept_again(r, NULL));
	r->task_done = false;   /* the task goes on */
	return 1 + l_one(L, kept_route(r, room));
}

/* Pushes the arguments of pipeline.connect and pipeline.request: req, token, route. */
static int
req_push(lua_State *co, void *arg)
{
	struct req *r = arg;
	struct req_handle *h = l_new(co, sizeof *h, 0, &l_type_req);
	char room[KEPT_ROUTE_MAX];

	h->r = r;
	r->handle = h;
	return 1 + l_two(co, L_TEXT(r->token), kept_route(r, room));
}

static int ask_handle = LUA_NOREF;      /* registry: the handle of requests about which rules are asked, until they were; of one at a time */

/* Pushes the argument of a kept decision's function that asks the rules. */
static int
ask_push(lua_State *co, void *arg)
{
	struct req *r = arg;
	struct req_handle *h;

	if (ask_handle == LUA_NOREF) {
		l_new(co, sizeof *h, 0, &l_type_req);
		ask_handle = luaL_ref(co, LUA_REGISTRYINDEX);
	}
	lua_rawgeti(co, LUA_REGISTRYINDEX, ask_handle);
	h = lua_touserdata(co, -1);
	if (h->r != NULL) {             /* that request waits for its body */
		h = l_new(co, sizeof *h, 0, &l_type_req);
		lua_replace(co, -2);
	}
	r->handle = h;
	h->r = r;
	return 1;
}

/* req:asked(fine) -> nil | req, token, route
 *
 * The rules of a kept decision were asked about the request, under a handle that ends here. nil: they have nothing
 * against it, and it goes the kept way; else all is decided anew, with these arguments of pipeline.request. */
static int
l_req_asked(lua_State *L)
{
	struct req *r = l_check_req(L, 1);

	req_close(r);
	if (r->asked == NULL || !lua_toboolean(L, 2) || (r->up_flow.into != NULL && !kept_holds_now(r->asked)) || !kept_take(r, r->asked))
		return req_push(L, r);
	r->task_done = false;   /* the task goes on */
	return 0;
}

/* req:keep(config, state, until, share, known | nil, ask | nil)
 *
 * Keeps what was decided and attached for later requests like this one, while the store is of
 * these generations (state 0: any), until `until` (wall clock, seconds), and for requests without
 * a known placeholder. share: the agent's share of requests. ask(req) is called for each of them, may wait for the
 * body alone, and calls req:asked. Whether one's body had a say otherwise, the caller knows. Does nothing where a part of the request had a say that kept_make does not compare. */
static int
l_req_keep(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	uint64_t config = (uint64_t)luaL_checkinteger(L, 2), state = (uint64_t)luaL_checkinteger(L, 3);
	int64_t until = luaL_checkinteger(L, 4);
	unsigned share = (unsigned)luaL_optinteger(L, 5, AGENT_REQUESTS);
	const struct known *known = lua_isnil(L, 6) ? NULL : l_check_type(L, 6, &l_type_known);
	int ask = (lua_settop(L, 7), luaL_ref(L, LUA_REGISTRYINDEX)), ref = luaL_ref(L, LUA_REGISTRYINDEX);
	struct kept *k = kept_make(r);

	if (k == NULL) {
		luaL_unref(L, LUA_REGISTRYINDEX, ask);
		luaL_unref(L, LUA_REGISTRYINDEX, ref);
		return 0;
	}
	k->config = config;
	k->state = state;
	k->since = clock_wall();
	k->until = until;
	k->share = share;
	k->known = known;
	k->known_ref = ref;
	k->ask_ref = ask;
	return 0;
}

/* -- examples: a request of no connection, for policies' examples and `credential test` */

/* request.example(head, body | nil, streams) -> req
 *
 * A request without a connection: log, fail and forward are not for it. lua/example.lua writes the head. streams: the
 * body was not read. Raises where the parts make no request, or its target is not absolute. */
static int
l_request_example(lua_State *L)
{
	static const struct listener nowhere = {.kind = LISTEN_PROXY};  /* an agent's request, in whatever process */
	struct slice head = l_check_text(L, 1), body = {luaL_optstring(L, 2, NULL), 0};
	struct req_handle *h = (lua_settop(L, 3), l_new(L, sizeof *h, 0, &l_type_req));
	struct req *r;

	h->owned = true;
	if ((r = h->r = req_new(NULL)) == NULL || (r->conn = calloc(1, sizeof *r->conn)) == NULL)
		return luaL_error(L, "out of memory");
	r->conn->at = &nowhere;
	r->handle = h;
	if (body.p != NULL) {
		body = l_check_text(L, 2);
		buf_init(&r->body, body.n);
		req_bodies += body.n;
		if (!buf_addv(&r->body, body))
			return luaL_error(L, "out of memory");
	}
	r->body_read = !lua_toboolean(L, 3);
	if (!buf_addv(&r->bytes, head) || !req_parse(r) || r->form != REQ_ABSOLUTE)
		return luaL_error(L, "an example is no request, or its url is not absolute");
	return 1;
}

/* req:dump() -> { method=, url=, headers={ lower-case name = value }, body= }
 *
 * The request as it would go out, secrets as strings. Raises for a live request: only an example's
 * secrets stand in the policy's file. */
static int
l_req_dump(lua_State *L)
{
	struct req *r = l_check_req(L, 1);
	struct req_handle *h = lua_touserdata(L, 1);
	struct buf *b;

	if (!h->owned)
		return luaL_error(L, "a live request cannot be dumped");
	lua_newtable(L);
	l_set(L, "method", r->head.method);
	b = l_text(L, false, 0);
	buf_adds(b, r->secure ? "https://" : "http://");
	req_put_authority(r, b);
	req_put_target(r, b);
	l_text_push(L);
	lua_setfield(L, -2, "url");
	l_push_fields(L, r, FIELD_KEPT);
	lua_setfield(L, -2, "headers");
	l_set(L, "body", r->body.n != 0 ? buf_slice(&r->body) : SLICE(""));
	return 1;
}

/* -- openers */

static const luaL_Reg l_req[] = {
	{"log", l_req_log}, {"fail", l_req_fail}, {"respond", l_req_respond}, {"forward", l_req_forward},
	{"intercept", l_req_intercept}, {"tunnel", l_req_tunnel},
	{"tap", l_req_tap}, {"reads", l_req_reads}, {"narrow", l_req_narrow}, {"read_body", l_req_read_body}, /* yields */
	{"came", l_req_came}, {"hand_on", l_req_hand_on}, {"mcp", l_req_mcp},
	{"handed", l_req_handed}, {"take_over", l_req_take_over},
	{"strip", l_req_strip}, {"substitute", l_req_substitute},
	{"text_kind", l_req_text_kind}, {"hide", l_req_hide}, {"scrub", l_req_scrub}, {"known", l_req_known}, {"keep", l_req_keep}, {"again", l_req_again},
	{"asked", l_req_asked},
	{"presents", l_req_presents}, {"taken", l_req_taken}, {"unstrip", l_req_unstrip},
	{"view", l_req_view}, {"dump", l_req_dump},
	{"seal", l_req_seal}, {"sealed", l_req_sealed}, {"target", l_req_target}, {NULL, NULL},
};

static const luaL_Reg l_request[] = {{"example", l_request_example}, {"known", l_known_new},
    {"second", l_field_second}, {"form_names", l_form_names}, {"json_has", l_json_has},
    {"documents", l_documents}, {"unseal", l_unseal}, {"mcp_call", l_mcp_call}, {NULL, NULL}};

/* The module request, for the runtime alone. */
static void
l_open_request(lua_State *L)
{
	luaL_newlib(L, l_req);
	lua_newtable(L);
	l_push_index(L, OF_SEEN, l_req_seen);
	lua_setfield(L, -2, "seen");
	l_push_index(L, OF_REQ, l_req_index);
	l_metatable(L, &l_type_req, l_req_gc, NULL);
	luaL_newlib(L, l_view_methods);
	l_push_index(L, OF_VIEW, l_view_index);
	l_metatable(L, &l_type_view, NULL, l_view_newindex);
	luaL_newlib(L, l_headers);
	l_no_other(L, "req.headers has no ", ": req.headers:get(name) reads, req.headers:set(name, value) writes");
	l_metatable(L, &l_type_headers, NULL, NULL);
	luaL_newlib(L, l_query);
	l_no_other(L, "req.query has no ", ": req.query:get(name) reads, req.query:set(name, value) writes");
	l_metatable(L, &l_type_query, NULL, NULL);
	lua_newtable(L);
	for (size_t i = 0; l_places[i] != NULL; i++)
		l_set(L, l_places[i], (lua_Integer)i);
	lua_setfield(L, -2, "places");
}

/* -- tasks that C starts in Lua, and their ends */

static void
req_done(struct task *t, bool ok, lua_State *co)
{
	struct req *r = t->owner;

	if (!ok)
		log_line("ev=task_failed request=%s msg=\"%.300s\"", r->id,
		    l_message(co));
	r->task = NULL;
	r->task_done = true;
	r->task_ok = ok;
	conn_advance(r->conn);
}

/* ask: a function to call in the place of the entry's; negative: none. */
static bool
req_start(struct req *r, enum req_entry entry, int ask)
{
	r->task = task_new(ask >= 0 ? ask : req_entry_ref[entry], ask >= 0 ? ask_push : req_push, r, r, req_done);
	if (r->task == NULL)
		return false;
	task_run(r->task);
	return true;
}

static void
req_stop(struct req *r)
{
	if (r->task != NULL)
		task_abandon(r->task);
	r->task = NULL;
	req_close(r);
}

static bool
req_wake_body(struct req *r)
{
	if (r->task == NULL)
		return false;
	task_wake(r->task);
	return true;
}

/* An answer that pipeline.answer is told of. */
struct told {
	const struct req *r;
	const struct http_head *h;
};

static int
answer_push(lua_State *co, void *arg)
{
	static const struct slice fields[] = {SLICE_INIT("www-authenticate"), SLICE_INIT("x-amzn-errortype"), SLICE_INIT("date")};
	const struct told *t = arg;

	l_push(co, t->r->credential);
	l_push(co, t->h->status);
	for (size_t i = 0; i < COUNT(fields); i++) {
		struct slice v = http_value(t->h, fields[i]);

		l_push(co, v.n != 0 && v.n < 4096 ? v : SLICE(""));     /* no value of these fields is that long */
	}
	return 2 + COUNT(fields) + l_one(co, t->r->host);
}

static void
req_tell_answer(const struct req *r, const struct http_head *h)
{
	struct told t = {r, h};
	struct task *task = task_new(req_entry_ref[ENTRY_ANSWER], answer_push, &t, NULL, NULL);

	assert(task_running == NULL);   /* so that the first step, which reads both, runs at once */
	if (task != NULL)
		task_run(task);
}

/* -- questions of C's that Lua answers at once */
struct question {
	enum req_entry entry;
	const char *what;
	lua_Integer id;
	struct slice in;
	struct buf *out;        /* may hold `in` */
	bool yes;
};

static int
l_ask(lua_State *L)
{
	struct question *q = lua_touserdata(L, 1);

	lua_rawgeti(L, LUA_REGISTRYINDEX, req_entry_ref[q->entry]);
	lua_pushstring(L, q->what);
	lua_pushinteger(L, q->id);
	l_push_slice(L, q->in);
	lua_call(L, 3, 1);
	q->yes = lua_toboolean(L, -1);
	if (q->out != NULL && q->yes) {
		buf_clear(q->out);
		q->yes = buf_addv(q->out, l_check_slice(L, -1));
	}
	return 0;
}

/* Calls fn(what, id, in). False: it answers nil or false, or fails; else its text is in `out`, or `out` is NULL. */
static bool
lua_ask(enum req_entry entry, const char *what, lua_Integer id, struct slice in, struct buf *out)
{
	struct question q = {entry, what, id, in, out, false};
	bool ok;

	store_read_reset();     /* as for a step of a task: it sees the store as it is now */
	ok = lua_protect(l_ask, &q);
	store_read_reset();
	return ok && q.yes;
}

/* Tells the rules that listen to its answer how the request ended. */
static void
req_tell_end(struct req *r)
{
	const uint64_t how[] = {(uint64_t)(r->up_status != 0 ? r->up_status : r->status), r->up_status != 0,
	    (r->answer_begun || r->answer_held) && r->down_flow.done, r->bytes_up, r->bytes_down};

	lua_ask(ENTRY_ENDED, "", r->told, (struct slice){(const char *)how, sizeof how}, NULL);
	r->told = 0;
}

/* Asks the rules that judge answers, before anything of it goes to the client. False: req_fail was called. They do not
 * get what was attached, nor the value of a field that may be a session or will be sealed. */
static bool
req_judge_answer(struct req *r, const struct http_head *h)
{
	static struct buf b = {.max = 2 * PEER_HEAD_MAX};       /* dead when this returns */
	struct slice left = SLICE("\n\na rule cannot be asked about the answer\n"), code, rule, message;
	bool ok;

	buf_clear(&b);
	buf_addu(&b, (uint64_t)h->status);
	for (const struct http_field *f = h->field; f < h->field + h->nfields; f++) {
		buf_join(&b, (struct slice[]){SLICE("\n"), f->name, SLICE(":")}, 3);
		if (r->seal == NULL && !name_same(f->name, SLICE("set-cookie")))
			ok = r->echoes ? scrub_put(r->back, f->value, &b) : buf_addv(&b, f->value);
	}
	ok = buf_ok(&b) && lua_ask(ENTRY_JUDGE, "", r->told, buf_slice(&b), &b);
	if (ok && b.n == 0)
		return true;
	if (ok)
		left = buf_slice(&b);
	code = slice_cut(&left, '\n');
	rule = slice_cut(&left, '\n');
	message = slice_cut(&left, '\n');
	snprintf(r->reason, sizeof r->reason, "rule %.*s", (int)rule.n, rule.p);
	req_fail(r, 403, slice_eq(code, SLICE("rule_denied")) ? "rule_denied" : "rule_failed", message, left);
	return false;
}

/* Makes references to the functions that C starts. False: logged. */
static bool
req_import(void)
{
	static const char *const names[][2] = {
		[ENTRY_CONNECT] = {"pipeline", "connect"}, [ENTRY_REQUEST] = {"pipeline", "request"},
		[ENTRY_ANSWER] = {"pipeline", "answer"}, [ENTRY_REJUDGE] = {"pipeline", "rejudge"},
		[ENTRY_HELLO] = {"hello", "asked"}, [ENTRY_KNOWS] = {"pipeline", "knows"},
		[ENTRY_SOCKS] = {"socks", "request"}, [ENTRY_HANDOVER] = {"handover", "call"},
		[ENTRY_ENDED] = {"answers", "over"}, [ENTRY_JUDGE] = {"answers", "judge"},
		[ENTRY_HEARD] = {"answers", "heard"}, [ENTRY_READING] = {"reading", "piece"},
	};

	for (size_t i = 0; i < COUNT(names); i++)
		if ((req_entry_ref[i] = lua_import(names[i][0], names[i][1])) == LUA_NOREF)
			return false;
	return true;
}

/* -- long streams, which are judged again when the configuration has changed */
static int
rejudge_push(lua_State *co, void *arg)
{
	lua_newtable(co);
	for (size_t i = 0; i < COUNT(l_members); i++)
		if ((l_members[i].of & OF_STREAM) != 0) {
			l_push_member(co, arg, i);
			lua_setfield(co, -2, l_members[i].name);
		}
	return 1;
}

static void
rejudge_done(struct task *t, bool ok, lua_State *co)
{
	bool keep = ok && lua_toboolean(co, 1);

	for (struct conn *c = LIST_FIRST(&conn_list); !keep && c != NULL; c = LIST_NEXT(c, link)) {
		if (c->id != (uintptr_t)t->owner)
			continue;
		if (c->req != NULL)
			text_copy(c->req->code, sizeof c->req->code, "rule_changed");
		conn_close(c, true);
		break;
	}
}

/* Called each second. Judges the streams that an older configuration decided, and each stream once
 * a minute, for an agent expires without a change of the store; at most 64 a call. True: more are
 * due. */
static bool
conn_rejudge(void)
{
	uint64_t config, state;
	unsigned n = 0;

	if (!store_generations(&config, &state))
		return false;
	store_read_reset();     /* a snapshot kept open would hide the next change */
	kept_sweep(config, state);
	for (struct conn *c = LIST_FIRST(&conn_list), *next; c != NULL; c = next) {
		struct req *r = c->state == CONN_BLIND || c->state == CONN_RELAY ? c->req : NULL;
		struct task *task;

		next = LIST_NEXT(c, link);
		if (r != NULL && r->up != NULL) {       /* between its bytes a stream holds no record buffers */
			peer_park(&c->peer);
			peer_park(&r->up->peer);
		}
		if (r == NULL || (r->config == config && clock_now() - r->judged < CONN_REJUDGE_MS))
			continue;
		if (n++ == 64)
			return true;
		r->config = config;
		r->judged = clock_now();
		/* the first step, which reads r, runs at once; the connection may be gone when the task ends */
		if ((task = task_new(req_entry_ref[ENTRY_REJUDGE], rejudge_push, r, (void *)(uintptr_t)c->id, rejudge_done)) == NULL)
			return true;
		task_run(task);
		next = LIST_EMPTY(&conn_list) ? NULL : next; /* the task may have closed c, and no other */
	}
	return false;
}

/* ---- bind: host ------------------------------------------------------------
 * What the runtime asks of the machine: the modules time, tls, http_client and host. Invariants:
 * no policy reaches any of them; a worker has l_host_worker alone; a secret that comes from a
 * file, the environment or the terminal is never in a Lua string. Skip it unless you review
 * commands, or the requests for tokens (http_client). */
#define HOST_SECRET_MAX (64 * 1024)             /* a line: the longest keys and tokens have a few KiB */
#define HOST_ARGUMENTS_MAX (64 * 1024)           /* bytes of a program's name and arguments */
#define HOST_SECRET_LINES_MAX (1024 * 1024)     /* a key file or a document: the store takes no more */

/* nil and "absent", or errno's text. */
static int
l_fail_errno(lua_State *L)
{
	return l_fail(L, errno == ENOENT || errno == ENOTDIR ? "absent" : strerror(errno));
}

/* -- time */

/* time.now() -> ms of the monotonic clock
 * time.boot() -> ms of CLOCK_BOOTTIME, which counts while the machine sleeps
 * time.wall() -> Unix seconds
 * time.wall_ms() -> Unix ms */
static int l_time_now(lua_State *L) { return l_one(L, clock_now()); }
static int l_time_boot(lua_State *L) { return l_one(L, clock_read(CLOCK_BOOTTIME) + hook_clock(1)); }
static int l_time_wall(lua_State *L) { return l_one(L, clock_wall()); }
static int l_time_wall_ms(lua_State *L) { return l_one(L, clock_wall_ms()); }

/* time.offset(Unix s) -> s by which this machine's zone is east of UTC then */
static int
l_time_offset(lua_State *L)
{
	time_t t = (time_t)luaL_checkinteger(L, 1);
	struct tm tm = {0};

	localtime_r(&t, &tm);
	return l_one(L, tm.tm_gmtoff);
}

static int
l_time_sleep_push(lua_State *L, bool late)
{
	return late ? 0 : -1;
}

/* time.sleep(ms)
 *
 * Waits that long; with 0 until every other task had its turn. Yields. */
static int
l_time_sleep(lua_State *L)
{
	int64_t until = clock_now() + (int64_t)luaL_checkinteger(L, 1);

	lua_settop(L, 1);
	lua_pushinteger(L, until);
	return task_yield(L, until, (lua_KContext)l_time_sleep_push, l_wait_k);
}

static const luaL_Reg l_time[] = {
	{"now", l_time_now}, {"boot", l_time_boot}, {"wall", l_time_wall}, {"wall_ms", l_time_wall_ms},
	{"offset", l_time_offset}, {"sleep", l_time_sleep}, /* yields */
	{NULL, NULL},
};

/* -- tls: what a credential brings of its own, and the proxy's authority */

static int
l_identity_gc(lua_State *L)
{
	struct tls_ident **id = l_check_type(L, 1, &l_type_identity);

	tls_ident_unref(*id);
	*id = NULL;
	return 0;
}

static struct slice
l_opt_value(lua_State *L, int idx)
{
	bool is_secret;

	return lua_isnoneornil(L, idx) ? (struct slice){"", 0} : l_check_value(L, idx, &is_secret);
}

/* tls.identity(cert | nil, key | nil, ca | nil, legacy) -> identity | nil, field, code
 *
 * cert and ca are PEM, or ca is pins as lua/identity.lua writes them; key is a secret; legacy: true for an old box.
 * Codes: "missing", "malformed", "no_certificate", "private_key" (where none belongs), "mismatch",
 * "malformed_pin", "too_many" (certificates to show), "too_large", "no_memory", and those of
 * lua/keys.lua. */
static int
l_tls_identity(lua_State *L)
{
	struct slice cert = l_opt_value(L, 1), key = l_opt_value(L, 2), ca = l_opt_value(L, 3);
	struct tls_ident **id = l_new(L, sizeof *id, 0, &l_type_identity);
	struct ident_fault fault;

	if ((*id = ident_new(cert, key, ca, lua_toboolean(L, 4), &fault)) != NULL)
		return 1;
	return l_three(L, L_NIL, fault.field, fault.code);
}

/* tls.authority(der, key) -> true | false
 *
 * Sets the authority that signs leaf certificates from now on. false: these are not a certificate
 * and its key. */
static int
l_tls_authority(lua_State *L)
{
	bool is_secret;
	struct slice der = l_check_slice(L, 1), key = l_check_value(L, 2, &is_secret);

	return l_answer(L, key.n == 32 && tls_ca_load(der, key.p));
}

static const char *const listener_kinds[] = {[LISTEN_PROXY] = "proxy", [LISTEN_GATEWAY] = "gateway", [LISTEN_PAGE] = "page", NULL};

/* tls.serve(kind, identity)
 *
 * What listeners of that kind ("proxy", "gateway") with TLS show from now on, in this process. */
static int
l_tls_serve(lua_State *L)
{
	struct tls_ident **own = &tls_own[luaL_checkoption(L, 1, NULL, listener_kinds)];
	struct tls_ident **id = l_check_type(L, 2, &l_type_identity), *was = *own;

	*own = tls_ident_ref(*id);
	tls_ident_unref(was);
	return 0;
}

static const luaL_Reg l_tls[] = {
	{"identity", l_tls_identity}, {"authority", l_tls_authority}, {"serve", l_tls_serve},
	{NULL, NULL},
};

/* -- http_client */

/* Pushes { status=, values= | malformed=true, retry_after=, challenge=, session=, text=, head= }. */
static int
l_fetch_push(lua_State *L, bool late)
{
	static struct http_head head;   /* dead before this returns */
	struct fetch *f = lua_touserdata(L, 3);
	struct buf *challenge;
	struct slice session;
	uint64_t seconds;

	if (!f->wait.done && !late)
		return -1;
	if (late)
		fetch_finish(f, f->up_flow.moved != 0 ? "timeout" : "unreachable",
		    f->up_flow.moved != 0 ? "no answer in time" : "no connection in time");
	if (f->error != NULL)
		return l_three(L, L_NIL, f->error, f->detail);
	lua_createtable(L, 0, 3);
	l_set(L, "status", f->status);
	http_parse_response(f->head_bytes.p, f->head_bytes.n, f->method, &head);        /* it was taken before */
	/* RFC 9110 10.2.3, the seconds form; a date is rare there and counts as not said */
	if (slice_number(http_value(&head, SLICE("retry-after")), 999999, &seconds))
		l_set(L, "retry_after", (lua_Integer)seconds);
	session = http_value(&head, SLICE("mcp-session-id"));
	l_set(L, "session", session.n > 0 && session.n < 256 ? session : NO_SLICE);
	challenge = l_text(L, false, 0);        /* its lines joined (RFC 9110 5.3); one that does not fit is left out */
	for (int i = -1; (i = http_find(&head, SLICE("www-authenticate"), (size_t)i + 1)) >= 0;)
		if (head.field[i].value.n + challenge->n + 3 <= 4096)
			buf_join(challenge, (struct slice[]){challenge->n != 0 ? SLICE(", ") : SLICE(""), head.field[i].value}, 2);
	l_set(L, "challenge", challenge->n != 0 ? buf_slice(challenge) : NO_SLICE);
	if (l_flag(L, 1, "text")) {
		l_set(L, "text", buf_slice(&f->body));
		l_set(L, "head", buf_slice(&f->head_bytes));
	}
	if (lua_getfield(L, 1, "expect") == LUA_TTABLE) {
		int n = l_json_expect(L, buf_slice(&f->body), lua_gettop(L));

		if (n == 1)
			lua_setfield(L, 4, "values");
		lua_settop(L, 4);
		if (n != 1)
			l_set(L, "malformed", (bool)true);
	}
	lua_settop(L, 4);
	return 1;
}

/* Writes the whole request into f->out. A caller cannot set the fields that C frames the request
 * with. */
static void
l_fetch_compose(lua_State *L, struct fetch *f, const char *method, struct slice authority)
{
	struct slice rest, body = {NULL, 0};
	bool is_secret = false;
	int top;

	lua_getfield(L, 1, "target");
	rest = l_check_value(L, lua_gettop(L), &is_secret);
	lua_pop(L, 1);                  /* the table at 1 keeps the value */
	for (size_t i = 0; i < rest.n; i++)
		if ((unsigned char)rest.p[i] <= ' ' || rest.p[i] == 127)
			luaL_error(L, "not a target");
	if (!http_is_token(slice_of(method)))
		luaL_error(L, "not a method");
	buf_adds(&f->out, method);
	buf_adds(&f->out, rest.n == 0 || rest.p[0] != '/' ? " /" : " ");
	buf_addv(&f->out, rest);
	buf_adds(&f->out, " HTTP/1.1\r\nHost: ");
	buf_addv(&f->out, authority);
	buf_adds(&f->out, "\r\nConnection: close\r\nUser-Agent: sallyport/" VERSION "\r\n");
	top = lua_gettop(L) + 1;
	if (lua_getfield(L, 1, "headers") == LUA_TTABLE)
		L_EACH(L, top, i) {
			struct slice name = (lua_geti(L, -1, 1), l_check_text(L, -1)),
			    value = (lua_geti(L, -2, 2), l_check_value(L, top + 3, &is_secret));

			if (!field_settable(name) || !http_valid_field_value(value) ||
			    !put_field(&f->out, name, value))
				luaL_error(L, "cannot send the header %s", name.p);
			lua_pop(L, 2);
		}
	lua_pop(L, 1);
	if (lua_getfield(L, 1, "body") != LUA_TNIL) {
		body = l_check_value(L, lua_gettop(L), &is_secret);
		buf_addf(&f->out, "Content-Length: %zu\r\n", body.n);
	}
	buf_adds(&f->out, "\r\n");
	if (!buf_addv(&f->out, body))
		luaL_error(L, "a request of more than 2 MiB");
	lua_pop(L, 1);
}

/* http_client.request({ method=, host=, port=, secure=, authority=, target=, headers={{n,v}…}, body=,
 *   expect={…}, max=, addresses={…}, via=, tls=identity, text=, head= }, deadline)
 *   -> { status=, values=, retry_after=, challenge=, session=, text=, head= } | nil, code, detail
 *
 * Follows no redirect. Codes after which nothing was sent: "unreachable", "tls",
 * "address_blocked", "clock_unset"; after which the request may have been sent: "timeout", "cut",
 * "too_large". host: canonical. authority: as Host has it. target: path and query; may be a secret. secure: over
 * TLS. via: through the upstream proxy. max: bytes of the
 * answer's body, 1 MiB if absent. values: what `expect` names, see l_json_expect; malformed = true
 * where that fails. text: the body as a string, for one that holds no secret (metadata), and the head of it. head: the
 * body is not waited for. deadline: monotonic ms. Yields. */
static int
l_http_request(lua_State *L)
{
	struct cidr allow[NET_CIDRS_MAX];
	struct fetch *f;
	const char *method, *host;
	size_t nallow = 0;

	luaL_checktype(L, 1, LUA_TTABLE);
	luaL_checkinteger(L, 2);
	f = l_wait_new(L, sizeof *f, fetch_free);
	for (int i = 0; i < 5; i++)
		lua_getfield(L, 1, (const char *[]){"host", "authority", "method", "max", "port"}[i]);
	host = luaL_checkstring(L, 4);
	buf_init(&f->out, FETCH_OUT_MAX);
	buf_init(&f->body, (size_t)luaL_optinteger(L, 7, 1024 * 1024));
	if (f->body.max > FETCH_BODY_MAX)
		f->body.max = FETCH_BODY_MAX;
	method = luaL_optstring(L, 6, "GET");
	f->method = slice_eq(slice_of(method), SLICE("HEAD")) ? SLICE("HEAD") : SLICE("GET");
	f->head_only = l_flag(L, 1, "head");
	l_read_cidrs(L, 1, "addresses", allow, &nallow);
	l_fetch_compose(L, f, method, l_check_text(L, 5));
	fetch_start(f, host, (uint16_t)luaL_checkinteger(L, 8), l_flag(L, 1, "secure"), l_opt_identity(L, 1), allow, nallow,
	    l_flag(L, 1, "via"));
	lua_settop(L, 3);
	return l_wait(L, l_fetch_push);
}

static const luaL_Reg l_http_client[] = {{"request", l_http_request}, /* yields */ {NULL, NULL}};

/* -- helper programs (the type command; a field's exec:NAME), and tasks */

/* Pushes secret, empty or nil, "control". Takes off one newline at the end, refuses other control
 * bytes, and frees `b`. */
static int
l_secret_from(lua_State *L, struct buf *b, bool multiline)
{
	bool bad = false, empty;

	if (b->n != 0 && b->p[b->n - 1] == '\n')
		buf_cut(b, b->n - 1 - (b->n > 1 && b->p[b->n - 2] == '\r'));
	for (size_t i = 0; i < b->n; i++)
		bad |= http_is_control(b->p[i]) && !(multiline && memchr("\t\n\r", b->p[i], 3) != NULL);
	if (bad) {
		buf_free(b);
		return l_fail(L, "control");
	}
	empty = b->n == 0;
	buf_make_secret(b);
	l_push_buf(L, b);
	return 1 + l_answer(L, empty);
}

struct l_command {
	struct wait wait;
	struct helper_run *run; /* owned; NULL: none yet */
	bool multiline;         /* its output may have lines */
};

/* A program that still runs is killed, and the run is freed once its group has ended. */
static void
l_command_drop(struct wait *w)
{
	struct helper_run *run = ((struct l_command *)w)->run;

	if (run == NULL)
		return;
	run->wait = NULL;
	if (w->done)
		helper_over(run);
	else if (run->timer.fire == helper_look)
		helper_stop(run, "command_timeout");
}

static int
l_command_push(lua_State *L, bool late)
{
	const struct l_command *c = lua_touserdata(L, 3);

	if (!c->wait.done)
		return late ? l_fail(L, "command_timeout") : -1;
	if (c->run->code == NULL)
		return l_secret_from(L, &c->run->in, c->multiline);
	return l_three(L, L_NIL, c->run->code, c->run->status);
}

/* host.run(texts, deadline, timeout ms, multiline) -> secret, empty | nil, code [, exit status]
 *
 * For host.command of lua/host.lua. Runs a program of the helpers' folder: its name and arguments, a NUL
 * behind each. Its standard output is one value, as read_secret takes it. Codes: "no_helpers",
 * "command_failed", "command_timeout", "command_too_large", "command_missing", "command_unsafe",
 * "command_busy", "control". Yields. */
static int
l_host_run(lua_State *L)
{
	struct slice texts = l_check_slice(L, 1);
	lua_Integer ms = luaL_checkinteger(L, 3);
	bool multiline = lua_toboolean(L, 4);
	struct l_command *c;
	char **argv, **last;

	luaL_checkinteger(L, 2);
	luaL_argcheck(L, texts.n != 0 && texts.n <= HOST_ARGUMENTS_MAX &&
	    texts.p[texts.n - 1] == '\0', 1, "none, or too long");
	if (helper_dir < 0)
		return l_fail(L, "no_helpers");
	c = l_wait_new(L, sizeof *c, l_command_drop);
	c->multiline = multiline;
	last = argv = l_new(L, (texts.n + 1) * sizeof *argv, 0, NULL);  /* zeroed: NULL at the end */
	while (texts.n != 0)
		*last++ = (char *)slice_cut(&texts, '\0').p;
	if ((c->run = calloc(1, sizeof *c->run)) == NULL)
		return luaL_error(L, "out of memory");
	c->run->watch.fd = -1;
	c->run->wait = &c->wait;
	buf_init(&c->run->in, HELPER_OUTPUT_MAX);
	helper_start(c->run, argv, ms < 1 ? 1 : ms > HELPER_MS_MAX ? HELPER_MS_MAX : ms);
	lua_settop(L, 3);
	return l_wait(L, l_command_push);
}

static void
spawn_done(struct task *t, bool ok, lua_State *co)
{
	if (!ok)
		log_line("ev=task_failed entry=spawn msg=\"%.400s\"", l_message(co));
	spawn_running--;
	luaL_unref(lua_main, LUA_REGISTRYINDEX, t->fn_ref);
}

/* host.spawn(fn)
 *
 * Runs fn soon, in a task of its own that does not end with a request. */
static int
l_host_spawn(lua_State *L)
{
	struct task *t;
	int ref;

	luaL_checktype(L, 1, LUA_TFUNCTION);
	lua_settop(L, 1);
	ref = luaL_ref(L, LUA_REGISTRYINDEX);
	if ((t = task_new(ref, NULL, NULL, NULL, spawn_done)) == NULL) {
		luaL_unref(L, LUA_REGISTRYINDEX, ref);
		return luaL_error(L, "out of memory");
	}
	spawn_running++;
	task_run(t);
	return 0;
}

/* -- settings */

/* Sets the upstream proxy to { host=, port=, authorization=secret } at `proxy`; host nil: none. Idle
 * connections through another one are closed. */
static void
host_upstream_proxy(lua_State *L, int proxy)
{
	struct upstream *u, *next;
	struct secret *authorization;
	const char *host;
	uint16_t port = (uint16_t)l_integer(L, proxy, "port", 0);

	lua_getfield(L, proxy, "host");
	lua_getfield(L, proxy, "authorization");
	host = luaL_optstring(L, -2, "");
	authorization = lua_isnil(L, -1) ? NULL : l_test_secret(L, lua_gettop(L));
	if (strcmp(host, via.host) == 0 && port == via.port &&
	    (authorization == NULL) == (via.authorization == NULL) && (authorization == NULL ||
	    slice_eq(secret_slice(authorization), secret_slice(via.authorization))))
		return;
	if (!text_copy(via.host, sizeof via.host, host))
		luaL_error(L, "a host is too long");
	via.port = port;
	via.epoch++;
	if (authorization != NULL)
		secret_ref(authorization);
	secret_drop(&via.authorization);
	via.authorization = authorization;
	for (u = TAILQ_FIRST(&upstream_idle); u != NULL; u = next) {
		next = TAILQ_NEXT(u, link);
		if (u->via != 0)
			upstream_free(u);
	}
}

/* The roots of the PEM files in the list. NULL: why is on top of the stack. */
static struct tls_trust *
l_read_roots(lua_State *L, int list)
{
	struct tls_trust *trust = trust_new();
	struct buf why = {.max = 512};
	bool ok = trust != NULL;

	for (lua_Integer i = 1; ok && lua_rawgeti(L, list, i) == LUA_TSTRING; i++) {
		ok = trust_add_file(trust, lua_tostring(L, -1), &why);
		lua_pop(L, 1);
	}
	if (!ok) {
		tls_trust_unref(trust);
		l_push(L, buf_slice(&why));
	}
	buf_free(&why);
	return ok ? trust : NULL;
}

/* Bounds the number of connections by memory and by descriptors, two for each. */
static void
conn_bound(uint64_t memory)
{
	struct rlimit files;

	/* the door has a quarter of it all */
	memory = serve.doors == 0 ? memory : net.kind == LISTEN_GATEWAY ? memory / 4 : memory - memory / 4;
	conn_max = (size_t)(memory / CONN_COST / host_workers) + 16;
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > 128 &&
	    conn_max > (files.rlim_cur - 64) / 2)
		conn_max = (files.rlim_cur - 64) / 2;
}

/* host.configure{ connect_to="HOST PORT TARGET PORT\n…", allow_address={…}, trusted_proxy={…},
 *   upstream_proxy={ host=, port=, authorization=secret }, upstream_tls=0|1|2 (auto, bearssl, openssl), agent_tls=1|2, roots={…}, upstream_ca={…}, memory=bytes,
 *   dial_timeout=s, answer_timeout=s, idle_timeout=s, helpers=fd } -> true | nil, why
 *
 * Applies settings; those whose members are nil stay as they are. helpers: the folder of programs,
 * once. roots: PEM files, the upstream_ca among them; read where there is an upstream_ca, and once
 * in any case. */
static int
l_host_configure(lua_State *L)
{
	const char *why = NULL;
	struct tls_trust *trust;
	lua_Integer memory;
	unsigned anew;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	if (lua_getfield(L, 1, "connect_to") == LUA_TSTRING) {
		buf_clear(&net.to);
		why = buf_addv(&net.to, l_check_slice(L, 2)) ? NULL : "connect-to is over 1 MiB";
	}
	lua_settop(L, 1);
	l_read_cidrs(L, 1, "allow_address", net.allow, &net.nallow);
	l_read_cidrs(L, 1, "trusted_proxy", net.trusted, &net.ntrusted);
	if (lua_getfield(L, 1, "upstream_proxy") == LUA_TTABLE)
		host_upstream_proxy(L, 2);
	lua_settop(L, 1);
	helper_dir = helper_dir >= 0 ? helper_dir : (int)l_integer(L, 1, "helpers", -1);
	if ((memory = l_integer(L, 1, "memory", 0)) != 0)
		conn_bound((uint64_t)memory);
	net_dial_ms = 1000 * l_integer(L, 1, "dial_timeout", net_dial_ms / 1000);
	conn_answer_ms = 1000 * l_integer(L, 1, "answer_timeout", conn_answer_ms / 1000);
	conn_idle_ms = 1000 * l_integer(L, 1, "idle_timeout", conn_idle_ms / 1000);
	tls_engine_agents = (enum tls_engine)l_integer(L, 1, "agent_tls", tls_engine_agents);
	anew = tls_engine;
	tls_engine = (enum tls_engine)l_integer(L, 1, "upstream_tls", anew);
	anew ^= tls_engine;
	if (lua_getfield(L, 1, "roots") == LUA_TTABLE && (upstream_trust == NULL || l_flag(L, 1, "upstream_ca"))) {
		if ((trust = l_read_roots(L, 2)) != NULL) {
			tls_trust_unref(upstream_trust);
			upstream_trust = trust;
			anew = 1;
		} else {
			log_line("ev=trust err=\"%s\"", l_message(L));
			why = "the trusted roots cannot be read";
		}
	}
	upstream_trusts += anew != 0;
	while (anew != 0 && !TAILQ_EMPTY(&upstream_idle))       /* verified against the old roots, or by the other engine */
		upstream_free(TAILQ_FIRST(&upstream_idle));
	return why != NULL ? l_fail(L, why) : l_answer(L, true);
}

/* host.openssl() -> the version of the system's OpenSSL, which this process has loaded from now on | nil, why not */
static int
l_host_openssl(lua_State *L)
{
	return ossl_load() ? l_one(L, slice_of(ossl.OpenSSL_version(OPENSSL_VERSION_STRING))) : l_fail(L, ossl_why);
}

/* -- files and the machine */

/* host.uid() -> the effective user's number
 * host.pid() -> the number of this process */
static int l_host_uid(lua_State *L) { return l_one(L, geteuid()); }
static int l_host_pid(lua_State *L) { return l_one(L, getpid()); }

/* host.statx(path, follow) -> struct statx as the kernel writes it, path | nil, "absent" | why
 *
 * For host.stat and host.realpath of lua/host.lua. Without `follow` as lstat: a symbolic link is not followed; with it, the
 * path without links. "": not asked for, or it has none. */
static int
l_host_statx(lua_State *L)
{
	char real[PATH_MAX];
	struct statx st;

	if (statx(AT_FDCWD, luaL_checkstring(L, 1), lua_toboolean(L, 2) ? 0 : AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &st) != 0)
		return l_fail_errno(L);
	return l_two(L, ((struct slice){(char *)&st, sizeof st}),
	    slice_of(lua_toboolean(L, 2) && realpath(lua_tostring(L, 1), real) != NULL ? real : ""));
}

static int
l_file_close(lua_State *L)
{
	luaL_Stream *f = luaL_checkudata(L, 1, LUA_FILEHANDLE);

	return luaL_fileresult(L, fclose(f->f) == 0, NULL);
}

/* host.file(fd, mode) -> file | nil, why
 *
 * The descriptor as io.open has files. */
static int
l_host_file(lua_State *L)
{
	luaL_Stream *f = lua_newuserdatauv(L, sizeof *f, 0);

	*f = (luaL_Stream){NULL, NULL};
	luaL_setmetatable(L, LUA_FILEHANDLE);
	if ((f->f = fdopen((int)luaL_checkinteger(L, 1), luaL_checkstring(L, 2))) == NULL)
		return l_fail_errno(L);
	f->closef = l_file_close;
	return 1;
}

/* -- hashes, keys and tokens */

/* host.rsa_key() -> a new RSA key as PKCS #8 in DER
 *
 * About a second of work, so for commands alone. It is no secret: it is worth nothing elsewhere. */
static int
l_host_rsa_key(lua_State *L)
{
	unsigned char der[STAND_IN_DER];
	size_t n = stand_in_key_make(der);

	return n != 0 ? l_one(L, ((struct slice){(char *)der, n})) : luaL_error(L, "no key could be made");
}

/* host.random(n) -> n random bytes, 64 at most */
static int
l_host_random(lua_State *L)
{
	uint8_t raw[64];
	lua_Integer n = luaL_checkinteger(L, 1);

	luaL_argcheck(L, n > 0 && n <= (lua_Integer)sizeof raw, 1, "1 to 64");
	if (!rand_bytes(raw, (size_t)n))
		return luaL_error(L, "no random bytes");
	return l_one(L, ((struct slice){(const char *)raw, (size_t)n}));
}

/* -- a command's own listener, to which a browser comes back (RFC 8252 7.3) */

/* host.listen_close()
 *
 * Closes the listeners. Open connections are served to their end. */
static int
l_host_listen_close(lua_State *L)
{
	for (; net.nlisteners != 0; net.nlisteners--)
		watch_close(&net.listeners[net.nlisteners - 1].watch);
	return 0;
}

/* host.adopt{ fd=, kind=, tls=, host=, captures=, control=, agent=, handler= }
 *   -> "as bound", port | nil, why
 *
 * The listening socket of that number is one of this process from now on: see host.listen in
 * lua/cli/machine.lua. */
static int
l_host_adopt(lua_State *L)
{
	struct listener *l = &net.listeners[net.nlisteners];
	char text[NET_NAME_MAX];
	size_t n;

	luaL_checktype(L, 1, LUA_TTABLE);
	lua_settop(L, 1);
	if (net.nlisteners == NET_LISTENERS_MAX)
		return l_fail(L, "too many listeners");
	*l = (struct listener){.watch.fd = (int)l_integer(L, 1, "fd", -1)};
	l_opt_name(L, 1, "agent", l->agent, sizeof l->agent);
	l_opt_name(L, 1, "host", l->host, sizeof l->host);
	lua_getfield(L, 1, "kind");
	l->kind = (enum listener_kind)luaL_checkoption(L, -1, "proxy", listener_kinds);
	l->tls = l_flag(L, 1, "tls");
	l->captures = l_flag(L, 1, "captures");
	l->control = l_flag(L, 1, "control");
	l->at = net_end(l->watch.fd, true);
	if ((n = net_name(l->watch.fd, text)) == 0)
		return l_fail(L, "it is neither a TCP nor a Unix socket");
	net.nlisteners++;
	net.several += !l->control;
	if (lua_getfield(L, 1, "handler") == LUA_TFUNCTION) {
		l->watch.ready = conn_accept;
		net.kind = l->kind;
		if (!watch_add(&l->watch, EPOLLIN)) {
			net.nlisteners--;
			return l_fail_errno(L);
		}
		req_entry_ref[ENTRY_REQUEST] = req_entry_ref[ENTRY_CONNECT] = luaL_ref(L, LUA_REGISTRYINDEX);
	}
	return l_two(L, ((struct slice){text, n}), l->at.port);
}

/* host.serve{ home=, workers=N|nil, doors=N, overrides=JSON, with=JSON }
 *
 * The process becomes the master when the command has ended, for the listeners of host.listen. with: for cli.master. */
static int
l_host_serve(lua_State *L)
{
	long workers;

	luaL_checktype(L, 1, LUA_TTABLE);
	l_opt_name(L, 1, "home", serve.home, sizeof serve.home);
	lua_getfield(L, 1, "with");
	lua_getfield(L, 1, "overrides");
	serve.with = strdup(luaL_checkstring(L, -2));
	serve.overrides = strdup(luaL_checkstring(L, -1));
	if (serve.with == NULL || serve.overrides == NULL)
		return luaL_error(L, "out of memory");
	serve.doors = (unsigned)l_integer(L, 1, "doors", 0);
	workers = (long)l_integer(L, 1, "workers", sysconf(_SC_NPROCESSORS_ONLN)) + serve.doors;
	serve.workers = (unsigned)(workers < MASTER_WORKERS_MAX ? workers : MASTER_WORKERS_MAX);
	serve.wanted = true;
	return 0;
}

/* host.fork([worker, pipe]) -> the child's number | nil, why; in the child 0
 *
 * For cli.master. A child with a worker's number, from 0, becomes that worker once its task has ended, and
 * its records go down the pipe. */
static int
l_host_fork(lua_State *L)
{
	lua_Integer worker = luaL_optinteger(L, 1, -1), log = luaL_optinteger(L, 2, -1);
	pid_t pid;

	luaL_argcheck(L, worker < (lua_Integer)serve.workers, 1, "no such worker");
	if (worker >= 0) {
		master_beats[worker].at = clock_read(CLOCK_MONOTONIC);
		master_beats[worker].ready = 0;
	}
	if ((pid = fork()) == 0) {
		serve.worker = (int)worker;
		reqlog.fd = (int)log;
	} else {
		embed_forget();
	}
	return pid < 0 ? l_fail_errno(L) : l_one(L, pid);
}

/* -- secrets from outside, never through a Lua string */

/* host.read_secret("file", path, opts) -> secret, empty | nil, code
 * host.read_secret("env", name, opts) -> secret, empty | nil, code
 * host.read_secret("stdin", nil, opts) -> secret, empty | nil, code
 * host.read_secret("line", fd, opts) -> secret, empty | nil, "cancelled" | code
 *
 * empty: has the secret no bytes? One newline at the end is taken off. opts = { multiline = bool }:
 * tab, CR and LF may stand in it, and 1 MiB in place of 64 KiB is the most. Codes: "unset",
 * "too_large", "control", "absent", or errno's text. */
static int
l_host_read_secret(lua_State *L)
{
	enum { FILE_, ENV, STDIN, LINE };
	static const char *const kinds[] = {"file", "env", "stdin", "line", NULL};
	int kind = luaL_checkoption(L, 1, NULL, kinds);
	const char *name = luaL_optstring(L, 2, ""), *why;
	bool multiline = l_flag(L, 3, "multiline");
	int fd = kind == FILE_ ? open(name, O_RDONLY | O_CLOEXEC) :
	    kind == LINE ? (int)luaL_checkinteger(L, 2) : STDIN_FILENO;
	char line[4096];        /* no terminal has a longer one */
	ssize_t n = 0;
	struct buf b;

	buf_init(&b, multiline ? HOST_SECRET_LINES_MAX : HOST_SECRET_MAX);
	if (fd < 0)
		return l_fail_errno(L);
	if (kind == ENV)
		why = getenv(name) == NULL ? "unset" :
		    buf_adds(&b, getenv(name)) ? NULL : "too_large";
	else if (kind == LINE)
		why = (n = read(fd, line, sizeof line)) > 0 && buf_add(&b, line, (size_t)n) ?
		    NULL : "cancelled";
	else
		why = buf_read(&b, fd);
	wipe(line, n > 0 ? (size_t)n : 0);
	if (kind == FILE_)
		close(fd);
	if (why == NULL)
		return l_secret_from(L, &b, multiline);
	buf_free(&b);
	return l_fail(L, why);
}

/* -- certificates */

/* host.pem_check{ file } -> number | nil, why
 *
 * How many trusted roots the PEM file has. */
static int
l_host_pem_check(lua_State *L)
{
	struct tls_trust *t = l_read_roots(L, 1);

	if (t == NULL)
		return l_two(L, L_NIL, l_message(L));
	lua_pushinteger(L, (lua_Integer)t->n);
	tls_trust_unref(t);
	return 1;
}

/* host.ca_make() -> key (a secret), certificate (DER) | nil, why
 *
 * Makes a new authority for the proxy, on P-256. */
static int
l_host_ca_make(lua_State *L)
{
	uint8_t room[CERT_ROOM];
	struct secret *key = secret_new(32);
	struct slice der = {NULL, 0};

	if (key != NULL)
		der = tls_ca_make(room, (uint8_t *)key->p, clock_wall());
	if (der.n == 0) {
		secret_unref(key);
		return l_fail(L, "no randomness");
	}
	l_push_secret(L, key);
	return 1 + l_one(L, der);
}

/* -- the process */

/* host.locked() -> bool
 *
 * Is the arena of secrets locked in memory? */
static int l_host_locked(lua_State *L) { return l_answer(L, secret_locked()); }

/* host.log(text)
 *
 * Writes a line of the log. The text holds no header value, no body and no secret. */
static int
l_host_log(lua_State *L)
{
	log_line("%s", luaL_checkstring(L, 1));
	return 0;
}

/* host.record(json) -> bool
 *
 * Adds a record to the request log, which no kill of this worker takes back. False: this process has no
 * way to the log's writer. */
static int
l_host_record(lua_State *L)
{
	reqlog_add(l_check_slice(L, 1), REQLOG_SENT, NULL, 0);
	reqlog_flush(NULL);
	return l_answer(L, reqlog.fd >= 0);
}

/* host.tally(cell, window, n) -> count
 *
 * Adds n to one of the counters that all workers share; one of an earlier window begins anew. */
static int
l_host_tally(lua_State *L)
{
	_Atomic uint32_t *cell = &worker_tally[luaL_checkinteger(L, 1) & (WORKER_TALLIES - 1)];
	uint32_t window = (uint16_t)luaL_checkinteger(L, 2), was = atomic_load(cell);
	lua_Integer n;

	do {
		n = (was >> 16 == window ? was & 0xffff : 0) + luaL_checkinteger(L, 3);
		n = n < 0 ? 0 : n > 0xffff ? 0xffff : n;
	} while (!atomic_compare_exchange_weak(cell, &was, window << 16 | (uint32_t)n));
	return l_one(L, n);
}

/* host.count(name, ends, n, owner [, first]) -> count | nil
 *
 * Adds n to a counter that all workers share, until `ends` (Unix s); nil: it cannot be counted. name: or its key, the
 * first 64 bits of its SHA-256 as an integer. owner: the name of whose share a new one is. first: only where it has
 * nothing; with 0, a look: nil where there is none. See count_add. */
static int
l_host_count(lua_State *L)
{
	int64_t ends = luaL_checkinteger(L, 2), n = luaL_checkinteger(L, 3);
	bool hashed = lua_isinteger(L, 1);
	struct slice name = hashed ? NO_SLICE : l_check_slice(L, 1);
	uint8_t hash[32];

	if (!hashed)
		tls_sha256_join(&name, 1, hash);
	n = count_add(hashed ? (uint64_t)lua_tointeger(L, 1) : load_be64(hash), ends, n, lua_toboolean(L, 5), text_hash(luaL_checkstring(L, 4)));
	return n < 0 ? l_one(L, L_NIL) : l_one(L, n);
}

/* host.meter(name, label): counts one more for /metrics. Both are names of ours. */
static int
l_host_meter(lua_State *L)
{
	meter_add(METER_COUNT, luaL_checkstring(L, 1), text_hash(luaL_checkstring(L, 1)), luaL_checkstring(L, 2), 0);
	return 0;
}

/* host.meters() -> bytes, free | nil
 *
 * struct meters as it lies in memory; and the bytes that are free where the store is. nil: this process shares none. */
static int
l_host_meters(lua_State *L)
{
	struct statvfs v = {0};

	if (meters == NULL || statvfs(serve.home, &v) != 0)
		return 0;
	return l_two(L, ((struct slice){(const char *)meters, sizeof *meters}), (uint64_t)v.f_bavail * v.f_frsize);
}

/* host.beats() -> bytes | nil, n, ms
 *
 * struct beat of n bytes of each worker, as it lies in memory, and the time by the clock that it is of. */
static int
l_host_beats(lua_State *L)
{
	return l_three(L, ((struct slice){(const char *)master_beats, sizeof *master_beats * serve.workers}), sizeof *master_beats,
	    clock_read(CLOCK_MONOTONIC));
}

/* host.home() -> the server's data directory */
static int l_host_home(lua_State *L) { lua_pushstring(L, serve.home); return 1; }

/* host.door() -> bool
 *
 * Does this worker serve the door? */
static int l_host_door(lua_State *L) { return l_answer(L, net.kind == LISTEN_GATEWAY); }

/* For workers and commands. */
static const luaL_Reg l_host_worker[] = {
	{"spawn", l_host_spawn}, {"configure", l_host_configure}, {"log", l_host_log},
	{"random", l_host_random},
	{"run", l_host_run}, /* yields */
	{"pid", l_host_pid}, {"uid", l_host_uid},
	{"statx", l_host_statx}, {"read_secret", l_host_read_secret}, {"door", l_host_door}, {"home", l_host_home},
	{"record", l_host_record}, {"tally", l_host_tally}, {"count", l_host_count},
	{"meter", l_host_meter}, {"meters", l_host_meters}, {"beats", l_host_beats}, {NULL, NULL},
};

/* For commands alone. */
static const luaL_Reg l_host_command[] = {
	{"file", l_host_file}, {"adopt", l_host_adopt},
	{"pem_check", l_host_pem_check}, {"ca_make", l_host_ca_make}, {"locked", l_host_locked},
	{"listen_close", l_host_listen_close},
	{"serve", l_host_serve}, {"fork", l_host_fork},
	{"rsa_key", l_host_rsa_key}, {"openssl", l_host_openssl}, {NULL, NULL},
};

static char host_arg0[PATH_MAX];

static void
l_open_host(lua_State *L, bool worker)
{
	lua_bind(L, "host.core", l_host_worker);
	if (!worker)
		luaL_setfuncs(L, l_host_command, 0);
	l_set(L, "version", VERSION);
	l_set(L, "build_time", BUILD_TIME);
	l_set(L, "arg0", host_arg0);
}

/* ---- jail ------------------------------------------------------------------
 * The way to the kernel for commands: which calls `run` makes, in which order and why is
 * lua/cli/jail.lua, with the filter of system calls; files, folders, terminals and listeners are
 * lua/cli/machine.lua. Invariants: commands alone have this module; a call is one of jail_calls;
 * what the kernel writes goes into memory of that size which the call itself has made. Skip it
 * unless you review `run`. */
#define JAIL_ROOM_MAX (1024 * 1024)     /* pointers to more texts than execve takes */

#define N(name) {#name, SYS_##name}
static const struct { const char *name; long number; } jail_calls[] = {
	/* made by the command */
	N(bind), N(capset), N(chdir), N(clone), N(close), N(connect), N(execve), N(exit_group), N(fchmod), N(fchmodat),
	N(fchown), N(fchownat), N(flock), N(fsync), N(getcwd), N(getdents64), N(getpeername), N(getpgid), N(getsockopt),
	N(ioctl), N(kill), N(listen), N(mkdirat), N(openat), N(pipe2), N(ppoll), N(prctl), N(prlimit64), N(read),
	N(readlinkat), N(rt_sigaction), N(rt_sigprocmask), N(sendmsg), N(sendto), N(setgroups), N(setresgid), N(setresuid),
	N(setsid), N(setsockopt), N(shutdown), N(signalfd4), N(socket), N(statfs), N(statx), N(symlinkat), N(umask),
	N(unlinkat), N(unshare), N(wait4), N(write), N(dup3), N(ftruncate), N(getppid), N(rt_sigtimedwait),
	/* refused in the jail, some of them made by the command before */
	N(acct), N(add_key), N(bpf), N(chroot), N(clone3), N(delete_module), N(fanotify_init),
	N(finit_module), N(fsconfig), N(fsmount), N(fsopen), N(fspick), N(init_module), N(io_uring_enter),
	N(io_uring_register), N(io_uring_setup), N(kcmp), N(kexec_load), N(keyctl), N(mount),
	N(mount_setattr), N(move_mount), N(name_to_handle_at), N(open_by_handle_at), N(open_tree),
	N(fcntl), N(perf_event_open), N(pidfd_getfd), N(pidfd_send_signal), N(pivot_root), N(quotactl), N(reboot), N(request_key),
	N(setns), N(setpriority), N(ioprio_set), N(settimeofday), N(socketpair), N(swapoff), N(swapon), N(syslog),
	N(umount2), N(userfaultfd), N(vhangup),
	/* flags of openat, which are others on other processors */
	{"O_DIRECTORY", O_DIRECTORY}, {"O_NOFOLLOW", O_NOFOLLOW},
};
#undef N

/* jail.number(name) -> the number on this machine of a system call or a flag | nil */
static int
l_jail_number(lua_State *L)
{
	const char *name = luaL_checkstring(L, 1);

	for (size_t i = 0; i < COUNT(jail_calls); i++)
		if (strcmp(jail_calls[i].name, name) == 0)
			return l_one(L, jail_calls[i].number);
	return 0;
}

/* The argument of a system call that a value is: an integer (nil: 0), or the address of memory. A
 * table, which the memory takes the place of, has its bytes or its size at 1, and at `at` what the
 * pointers in it point to, by where they lie: { [offset] = text or table }. */
static long
l_jail_memory(lua_State *L, int idx)
{
	const char *text;
	size_t size;
	char *room;
	long to;

	luaL_checkstack(L, 6, NULL);
	if (lua_type(L, idx) == LUA_TSTRING)
		return (long)lua_tostring(L, idx);
	if (!lua_istable(L, idx))
		return (long)luaL_optinteger(L, idx, 0);
	text = lua_geti(L, idx, 1) == LUA_TSTRING ? lua_tolstring(L, -1, &size) : NULL;
	if (text == NULL)
		size = (size_t)luaL_checkinteger(L, -1);
	luaL_argcheck(L, size <= JAIL_ROOM_MAX, 1, "too large");
	room = memset(lua_newuserdatauv(L, size, 1), 0, size);
	if (text != NULL)
		memcpy(room, text, size);
	if (lua_getfield(L, idx, "at") == LUA_TTABLE)
		for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
			size_t at = (size_t)luaL_checkinteger(L, -2);

			luaL_argcheck(L, at < size && size - at >= sizeof to, 1, "no place");
			to = l_jail_memory(L, lua_gettop(L));
			memcpy(room + at, &to, sizeof to);
			lua_pushvalue(L, -2);
			lua_pushvalue(L, -2);
			lua_settable(L, -5);    /* the table keeps the memory */
		}
	lua_setiuservalue(L, -2, 1);
	lua_replace(L, idx);
	lua_pop(L, 1);
	return (long)room;
}

/* jail.call(name, …) -> result, text… | nil, why, errno
 *
 * A system call with integers (nil: 0), texts, which stand in memory with a NUL behind them, and room
 * for answers: { bytes }, or { text } to be overwritten. Each room is answered as a text of its
 * size. { …, at = { [offset] = text or room } }: pointers stand in it. */
static int
l_jail_call(lua_State *L)
{
	long a[6] = {0}, rc;
	const int n = lua_gettop(L);

	luaL_argcheck(L, n <= 7 && l_jail_number(L) == 1, 1, "no such call");
	lua_insert(L, 1);
	for (int i = 3; i <= n + 1; i++)
		a[i - 3] = l_jail_memory(L, i);
	if ((rc = syscall(lua_tointeger(L, 1), a[0], a[1], a[2], a[3], a[4], a[5])) < 0) {
		const int code = errno;

		return l_three(L, L_NIL, strerror(code), code);
	}
	lua_pushinteger(L, rc);
	for (int i = 3; i <= n + 1; i++)
		if (lua_type(L, i) == LUA_TUSERDATA)
			lua_pushlstring(L, lua_touserdata(L, i), lua_rawlen(L, i));
	return lua_gettop(L) - n - 1;
}

static const luaL_Reg l_jail[] = {{"number", l_jail_number}, {"call", l_jail_call}, {NULL, NULL}};

/* ---- start -----------------------------------------------------------------
 * Lua's modules in one table, and main: a command is one process that runs cli.main as a task;
 * `serve` goes on as the master. Invariant: nobody may dump or trace it from the first line on. Skip it
 * unless you look for a module's opener. */

/* Makes the metatables of handles that have methods or nothing to be asked, and something to free. */
static void
l_open_handles(lua_State *L)
{
	static const luaL_Reg none[] = {{NULL, NULL}};
	static const struct { struct l_type *type; lua_CFunction gc; const luaL_Reg *names; } kinds[] = {
		{&l_type_wait, l_wait_gc, none}, {&l_type_raw, l_raw_gc, l_raw},
		{&l_type_identity, l_identity_gc, none}, {&l_type_known, l_known_gc, l_known},
	};

	for (size_t i = 0; i < COUNT(kinds); i++) {
		lua_newtable(L);
		luaL_setfuncs(L, kinds[i].names, 0);
		l_metatable(L, kinds[i].type, kinds[i].gc, NULL);
	}
}

static void
lua_bind_all(lua_State *L, bool worker)
{
	static const struct { const char *name; const luaL_Reg *list; void (*open)(lua_State *); } modules[] = {
		{"secret.core", l_core_functions, l_open_secret_core}, {"json.core", l_json_functions, l_open_json},
		{"request", l_request, l_open_request}, {"store.core", l_store, NULL}, {"tls", l_tls, NULL},
		{"sign.core", l_sign_functions, NULL}, {"http.core", l_http_functions, NULL},
		{"addr", l_addr_functions, NULL}, {"time.core", l_time, NULL}, {"http_client", l_http_client, NULL},
		{"jail", l_jail, NULL},
	};

	l_open_handles(L);
	for (size_t i = 0; i < COUNT(modules) - worker; i++) {          /* the last is for commands alone */
		lua_bind(L, modules[i].name, modules[i].list);
		if (modules[i].open != NULL)
			modules[i].open(L);
		lua_pop(L, 1);
	}
	l_open_host(L, worker);
	lua_pop(L, 1);
	l_read_guard(L);
	l_read_fields(L);
}

/* -- the process */
#ifndef SALLYPORT_UNIT
int
main(int argc, char **argv)
{
	int code;

#ifndef __SANITIZE_ADDRESS__            /* the leak checker attaches by ptrace */
	prctl(PR_SET_DUMPABLE, 0);              /* no core dump, no ptrace by others */
#endif
	mallopt(M_ARENA_MAX, 1);                /* helper threads allocate little */
	mallopt(M_MMAP_THRESHOLD, 64 * 1024);   /* large buffers go back when they are freed */
	if (realpath("/proc/self/exe", host_arg0) == NULL)
		snprintf(host_arg0, sizeof host_arg0, "%s", argv[0] != NULL ? argv[0] : "sallyport");
	if (!secret_init() || !loop_init(false) || !tls_init() || !tls_worker_init()) {
		fprintf(stderr, "sallyport: out of memory\n");
		return 1;
	}
	if (lua_open_state(false) == NULL)
		return 1;
	code = call_run("cli", "main", argc, argv);
	store_close();
	lua_close_state();
	return serve.wanted && code == 0 ? master_main() : code;
}
#endif
