/* Heads, chunks, hosts and paths: every attack by its name. Each input also runs at every prefix, before
 * a guard page: a prefix of what is taken is "need more", and a prefix of what is refused is never taken. */
#include PROXY_C
#include "guard.h"

#define IN(lit) {"" lit, sizeof(lit) - 1}
#define GET(fields) IN("GET / HTTP/1.1\r\nHost: a.test\r\n" fields "\r\n")
#define POST(fields) IN("POST / HTTP/1.1\r\nHost: a.test\r\n" fields "\r\n")
#define OK(fields) IN("HTTP/1.1 200 OK\r\n" fields "\r\n")

static struct http_head head;

/* -- requests: status 0 is taken whole (but for `rest` bytes that belong to what follows). */
static const struct {
	const char *name;
	struct slice in;
	int status;
	enum http_body body;
	uint64_t length;
	size_t rest;
} requests[] = {
	{"plain GET", GET(""), 0, BODY_NONE, 0, 0},
	{"HTTP/1.0 without Host", IN("GET / HTTP/1.0\r\n\r\n"), 0, BODY_NONE, 0, 0},
	{"CONNECT HTTP/1.0 without Host (Debian's Python)", IN("CONNECT a.test:443 HTTP/1.0\r\n\r\n"), 0, BODY_NONE, 0, 0},
	{"CONNECT", IN("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"), 0, BODY_NONE, 0, 0},
	{"CONNECT with an empty length", IN("CONNECT a.test:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"), 0, BODY_LENGTH, 0, 0},
	{"CONNECT to an IPv6 literal", IN("CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n"), 0, BODY_NONE, 0, 0},
	{"CONNECT to a host outside ASCII is for the caller", IN("CONNECT b\303\274cher.test:443 HTTP/1.1\r\nHost: a\r\n\r\n"), 0, BODY_NONE, 0, 0},
	{"absolute-form", IN("GET http://a.test/x?y HTTP/1.1\r\nHost: a.test\r\n\r\n"), 0, BODY_NONE, 0, 0},
	{"absolute-form of https is for the caller", IN("GET https://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"), 0, BODY_NONE, 0, 0},
	{"TRACE is for the caller", IN("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n"), 0, BODY_NONE, 0, 0},
	{"OPTIONS *", IN("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), 0, BODY_NONE, 0, 0},
	{"one empty line first", IN("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), 0, BODY_NONE, 0, 0},
	{"a length", POST("Content-Length: 5\r\n"), 0, BODY_LENGTH, 5, 0},
	{"a length with leading zeros", POST("Content-Length: 005\r\n"), 0, BODY_LENGTH, 5, 0},
	{"the longest length", POST("Content-Length: 922337203685477579\r\n"), 0, BODY_LENGTH, 922337203685477579, 0},
	{"length in odd letters and spaces", POST("cONTENT-lENGTH: \t 5 \t \r\n"), 0, BODY_LENGTH, 5, 0},
	{"chunked", POST("Transfer-Encoding: chunked\r\n"), 0, BODY_CHUNKED, 0, 0},
	{"chunked in odd letters", POST("transfer-encoding:  CHUNKED \r\n"), 0, BODY_CHUNKED, 0, 0},
	{"empty value", GET("X-Empty:\r\n"), 0, BODY_NONE, 0, 0},
	{"colon in a value", GET("X: a:b: c\r\n"), 0, BODY_NONE, 0, 0},
	{"obs-text in a value", GET("X: \377\200\r\n"), 0, BODY_NONE, 0, 0},
	{"empty Host", IN("GET / HTTP/1.1\r\nHost:\r\n\r\n"), 0, BODY_NONE, 0, 0},
	{"path bytes that clients do not encode", IN("GET /a|b{c}\"^`<> HTTP/1.1\r\nHost: a\r\n\r\n"), 0, BODY_NONE, 0, 0},
	{"pipelined second request stays", IN("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\n"), 0, BODY_NONE, 0, 17},
	{"smuggled second request in a body stays in the body", IN("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 27\r\n\r\nGET /x HTTP/1.1\r\nHost: b\r\n\r\n"), 0, BODY_LENGTH, 27, 28},
	{"a length is not taken from a name with underscore", POST("Content_Length: 5\r\n"), 0, BODY_NONE, 0, 0},

	{"bare LF ends the request line", IN("GET / HTTP/1.1\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"bare LF ends a field", GET("X: 1\n"), 400, 0, 0, 0},
	{"bare LF ends the head", IN("GET / HTTP/1.1\r\nHost: a\r\n\n"), 400, 0, 0, 0},
	{"bare LF hides a field", GET("X: 1\nContent-Length: 5\r\n"), 400, 0, 0, 0},
	{"bare CR in a value", GET("X: 1\r2\r\n"), 400, 0, 0, 0},
	{"bare CR hides a field", GET("X: 1\rContent-Length: 5\r\n"), 400, 0, 0, 0},
	{"bare CR in the request line", IN("GET /\r HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CR CR LF", GET("X: 1\r\r\n"), 400, 0, 0, 0},
	{"folded field, space", GET("X: 1\r\n 2\r\n"), 400, 0, 0, 0},
	{"folded field, tab", GET("X: 1\r\n\t2\r\n"), 400, 0, 0, 0},
	{"folded first field", IN("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), 400, 0, 0, 0},
	{"line of spaces", GET(" \r\n"), 400, 0, 0, 0},
	{"space before the colon", POST("Content-Length : 5\r\n"), 400, 0, 0, 0},
	{"tab before the colon", POST("Content-Length\t: 5\r\n"), 400, 0, 0, 0},
	{"space within a name", GET("X Y: 1\r\n"), 400, 0, 0, 0},
	{"empty name", GET(": 1\r\n"), 400, 0, 0, 0},
	{"no colon", GET("X\r\n"), 400, 0, 0, 0},
	{"obs-text in a name", GET("X\377: 1\r\n"), 400, 0, 0, 0},
	{"delimiter in a name", GET("X(y): 1\r\n"), 400, 0, 0, 0},
	{"NUL in a name", GET("X\0Y: 1\r\n"), 400, 0, 0, 0},
	{"NUL in a value", GET("X: 1\0" "2\r\n"), 400, 0, 0, 0},
	{"NUL in the target", IN("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"control byte in a value", GET("X: \001\r\n"), 400, 0, 0, 0},
	{"DEL in a value", GET("X: \177\r\n"), 400, 0, 0, 0},

	{"two lengths", POST("Content-Length: 5\r\nContent-Length: 6\r\n"), 400, 0, 0, 0},
	{"two equal lengths", POST("Content-Length: 5\r\nContent-Length: 5\r\n"), 400, 0, 0, 0},
	{"two lengths in odd letters", POST("Content-Length: 5\r\nCONTENT-length: 5\r\n"), 400, 0, 0, 0},
	{"list of equal lengths '5, 5'", POST("Content-Length: 5, 5\r\n"), 400, 0, 0, 0},
	{"list of lengths '5,6'", POST("Content-Length: 5,6\r\n"), 400, 0, 0, 0},
	{"length with chunked", POST("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400, 0, 0, 0},
	{"chunked with length", POST("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"), 400, 0, 0, 0},
	{"+5 as length", POST("Content-Length: +5\r\n"), 400, 0, 0, 0},
	{"-5 as length", POST("Content-Length: -5\r\n"), 400, 0, 0, 0},
	{"0x5 as length", POST("Content-Length: 0x5\r\n"), 400, 0, 0, 0},
	{"5.0 as length", POST("Content-Length: 5.0\r\n"), 400, 0, 0, 0},
	{"'5 5' as length", POST("Content-Length: 5 5\r\n"), 400, 0, 0, 0},
	{"'\"5\"' as length", POST("Content-Length: \"5\"\r\n"), 400, 0, 0, 0},
	{"empty length", POST("Content-Length:\r\n"), 400, 0, 0, 0},
	{"length that overflows 64 bits to 5", POST("Content-Length: 18446744073709551621\r\n"), 400, 0, 0, 0},
	{"length of 2^63", POST("Content-Length: 9223372036854775808\r\n"), 400, 0, 0, 0},
	{"length of fifty digits", POST("Content-Length: 99999999999999999999999999999999999999999999999999\r\n"), 400, 0, 0, 0},
	{"Transfer-Encoding: gzip, chunked", POST("Transfer-Encoding: gzip, chunked\r\n"), 400, 0, 0, 0},
	{"Transfer-Encoding: chunked, chunked", POST("Transfer-Encoding: chunked, chunked\r\n"), 400, 0, 0, 0},
	{"two Transfer-Encoding fields", POST("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400, 0, 0, 0},
	{"Transfer-Encoding: identity", POST("Transfer-Encoding: identity\r\n"), 400, 0, 0, 0},
	{"Transfer-Encoding: xchunked", POST("Transfer-Encoding: xchunked\r\n"), 400, 0, 0, 0},
	{"Transfer-Encoding: \"chunked\"", POST("Transfer-Encoding: \"chunked\"\r\n"), 400, 0, 0, 0},
	{"Transfer-Encoding: chunked;q=1", POST("Transfer-Encoding: chunked;q=1\r\n"), 400, 0, 0, 0},
	{"Transfer-Encoding: vertical tab chunked", POST("Transfer-Encoding: \013chunked\r\n"), 400, 0, 0, 0},
	{"empty Transfer-Encoding", POST("Transfer-Encoding:\r\n"), 400, 0, 0, 0},
	{"Transfer-Encoding in HTTP/1.0", IN("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400, 0, 0, 0},

	{"HTTP/2.0", IN("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505, 0, 0, 0},
	{"HTTP/2 preface", IN("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505, 0, 0, 0},
	{"HTTP/0.9 by name", IN("GET / HTTP/0.9\r\n\r\n"), 505, 0, 0, 0},
	{"HTTP/1.2", IN("GET / HTTP/1.2\r\nHost: a\r\n\r\n"), 505, 0, 0, 0},
	{"HTTP/1.10", IN("GET / HTTP/1.10\r\nHost: a\r\n\r\n"), 505, 0, 0, 0},
	{"HTTP/01.1", IN("GET / HTTP/01.1\r\nHost: a\r\n\r\n"), 505, 0, 0, 0},
	{"HTTP/1", IN("GET / HTTP/1\r\nHost: a\r\n\r\n"), 505, 0, 0, 0},
	{"version of dots 'HTTP/1..'", IN("GET / HTTP/1..\r\nHost: a\r\n\r\n"), 505, 0, 0, 0},
	{"HTTP/1.1a", IN("GET / HTTP/1.1a\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"http/1.1", IN("GET / http/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"HTTPS/1.1", IN("GET / HTTPS/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"no version: HTTP/0.9", IN("GET /\r\n\r\n"), 400, 0, 0, 0},
	{"two spaces before the version", IN("GET /  HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"two spaces before the target", IN("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"tab in the request line", IN("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"space after the version", IN("GET / HTTP/1.1 \r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"space in the target", IN("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"space before the method", IN(" GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"method that is no token", IN("G@T / HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"method of 33 bytes", IN("ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFG / HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"two empty lines first", IN("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"TLS where HTTP was expected", IN("\026\003\001\002\000\001\000\001\374\003\003\n"), 400, 0, 0, 0},
	{"SSH where HTTP was expected", IN("SSH-2.0-OpenSSH_9.2p1\r\n"), 400, 0, 0, 0},

	{"fragment in the target", IN("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"control byte in the target", IN("GET /\001 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"DEL in the target", IN("GET /\177 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"raw UTF-8 in the target", IN("GET /\303\274 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"raw UTF-8 in the query", IN("GET /?\303\274 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"target without slash", IN("GET a HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"asterisk for GET", IN("GET * HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"ftp:// target", IN("GET ftp://a.test/ HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"absolute-form without host", IN("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"absolute-form with userinfo", IN("GET http://u:p@a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"), 400, 0, 0, 0},
	{"absolute-form with backslash for the slash", IN("GET http://a.test\\@b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT with a path", IN("CONNECT a.test:443/x HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT with userinfo", IN("CONNECT u@a.test:443 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT with no port", IN("CONNECT a.test HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT with an empty port", IN("CONNECT a.test: HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT to port 0", IN("CONNECT a.test:0 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT to port 65536", IN("CONNECT a.test:65536 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT to port 4294967739", IN("CONNECT a.test:4294967739 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT to port +443", IN("CONNECT a.test:+443 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT to port 4 43", IN("CONNECT a.test:4 43 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT without host", IN("CONNECT :443 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT with a scheme", IN("CONNECT https://a.test:443 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT with a query", IN("CONNECT a.test:443?x HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT to bare IPv6", IN("CONNECT ::1:443 HTTP/1.1\r\nHost: a\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT with a body", IN("CONNECT a.test:443 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"), 400, 0, 0, 0},
	{"CONNECT with chunks", IN("CONNECT a.test:443 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), 400, 0, 0, 0},

	{"no Host", IN("GET / HTTP/1.1\r\n\r\n"), 400, 0, 0, 0},
	{"two Hosts", GET("Host: b.test\r\n"), 400, 0, 0, 0},
	{"two equal Hosts", GET("Host: a.test\r\n"), 400, 0, 0, 0},
	{"two Hosts in HTTP/1.0", IN("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n"), 400, 0, 0, 0},
	{"Host with userinfo", IN("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"), 400, 0, 0, 0},
	{"Host with a path", IN("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"), 400, 0, 0, 0},
	{"Host with a space", IN("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), 400, 0, 0, 0},
	{"Host of two ports", IN("GET / HTTP/1.1\r\nHost: a:80:90\r\n\r\n"), 400, 0, 0, 0},
	{"Host with port 0", IN("GET / HTTP/1.1\r\nHost: a:0\r\n\r\n"), 400, 0, 0, 0},
	{"Connection that is no list of tokens", GET("Connection: close;x\r\n"), 400, 0, 0, 0},
	{"Connection of 33 options", GET("Connection: a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a\r\nConnection: a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a\r\n"), 400, 0, 0, 0},
};

/* What a case says, at every prefix. NULL or what went wrong. */
static const char *
request_at_every_prefix(struct slice in, int status, size_t rest)
{
	size_t scanned = 0;

	for (size_t n = 0; n <= in.n; n++) {
		const char *p = guard_copy(in.p, n);
		ssize_t r = http_parse_request(p, n, &head);
		ssize_t whole = (ssize_t)(in.n - rest), end;

		if (status != 0 && n == in.n && r != -status)
			return "another status";
		if (status != 0 && r > 0)
			return "taken";
		if (status == 0 && r != ((ssize_t)n < whole ? 0 : whole))
			return (ssize_t)n < whole ? "a prefix is not 'need more'" : "not taken whole";
		if (status != 0)
			continue;
		scanned = n < in.n - rest ? scanned : 0;
		end = http_head_end(p, n, &scanned);
		if (end != r)
			return "http_head_end disagrees";
	}
	return NULL;
}

static void
test_requests(void)
{
	for (size_t i = 0; i < COUNT(requests); i++) {
		const char *why = request_at_every_prefix(requests[i].in, requests[i].status, requests[i].rest);
		char name[160];

		if (why == NULL && requests[i].status == 0 &&
		    (head.body != requests[i].body || head.length != requests[i].length))
			why = "another body";
		snprintf(name, sizeof name, "request, %d: %s", requests[i].status, requests[i].name);
		test_result(why == NULL, name, "%s", why);
	}
}

/* A head of exactly n bytes, or of exactly so many fields. */
static struct slice
big_head(size_t n, size_t fields, const char *start)
{
	static char text[GUARD_ROOM];
	size_t at = (size_t)snprintf(text, sizeof text, "%s", start);

	for (size_t i = 0; i < fields; i++)
		at += (size_t)snprintf(text + at, sizeof text - at, "F%zu: x\r\n", i);
	if (n != 0) {
		at += (size_t)snprintf(text + at, sizeof text - at, "Pad: ");
		memset(text + at, 'p', n - at - 4);
		at = n - 4;
		memcpy(text + at, "\r\n", 2);
		at += 2;
	}
	memcpy(text + at, "\r\n", 2);
	return (struct slice){text, at + 2};
}

static ssize_t
parse_guarded(struct slice in, size_t n)
{
	return http_parse_request(guard_copy(in.p, n), n, &head);
}

static void
test_limits(void)
{
	static const char get[] = "GET / HTTP/1.1\r\nHost: a\r\n", ok[] = "HTTP/1.1 200 OK\r\n";
	struct slice s = big_head(0, HTTP_FIELDS_MAX - 1, get);
	size_t scanned = 0;

	test_result(parse_guarded(s, s.n) == (ssize_t)s.n, "100 fields", "refused");
	s = big_head(0, HTTP_FIELDS_MAX, get);
	test_result(parse_guarded(s, s.n) == -431, "101 fields: 431", "not so");
	s = big_head(HTTP_HEAD_MAX, 0, get);
	test_result(parse_guarded(s, s.n) == (ssize_t)s.n &&
	    http_head_end(s.p, s.n, &scanned) == (ssize_t)s.n, "head of 64 KiB", "refused");
	test_result(parse_guarded(s, s.n - 1) == 0, "head of 64 KiB, one byte missing", "not 0");
	s = big_head(HTTP_HEAD_MAX + 1, 0, get);
	scanned = 0;
	test_result(parse_guarded(s, s.n) == -431 && parse_guarded(s, s.n - 1) == -431 &&
	    http_head_end(s.p, s.n, &scanned) == -431, "head over 64 KiB: 431, whole or not", "not so");
	s = big_head(0, HTTP_FIELDS_MAX + 1, ok);
	test_result(http_parse_response(s.p, s.n, SLICE("GET"), &head) == -502, "answer of 101 fields: 502", "not so");
	s = big_head(HTTP_HEAD_MAX + 1, 0, ok);
	test_result(http_parse_response(s.p, s.n, SLICE("GET"), &head) == -502, "answer's head over 64 KiB: 502", "not so");
}

/* -- what a head says of itself */
enum { KEEP = 1, EXPECT = 2, UPGRADE = 4, WEBSOCKET = 8 };
static const struct { const char *name; struct slice in; int flags; } flag_cases[] = {
	{"1.1 goes on", GET(""), KEEP},
	{"1.1 close", GET("Connection: close\r\n"), 0},
	{"1.1 close among others", GET("Connection: x, Close ,y\r\n"), 0},
	{"1.1 close in a second field", GET("Connection: keep-alive\r\nConnection: close\r\n"), 0},
	{"closed is not close", GET("Connection: closed\r\n"), KEEP},
	{"1.0 ends", IN("GET / HTTP/1.0\r\n\r\n"), 0},
	{"1.0 keep-alive", IN("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"), KEEP},
	{"1.0 keep-alive and close", IN("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"), 0},
	{"1.0 Proxy-Connection counts for nothing", IN("GET / HTTP/1.0\r\nProxy-Connection: keep-alive\r\n\r\n"), 0},
	{"expect", GET("Expect: 100-Continue\r\n"), KEEP | EXPECT},
	{"expect of something else", GET("Expect: 200-ok\r\n"), KEEP},
	{"expect in 1.0", IN("GET / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n"), 0},
	{"websocket", GET("Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"), KEEP | UPGRADE | WEBSOCKET},
	{"upgrade to something else", GET("Connection: upgrade\r\nUpgrade: h2c\r\n"), KEEP | UPGRADE},
	{"upgrade to two", GET("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n"), KEEP | UPGRADE},
	{"upgrade in two fields", GET("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"), KEEP | UPGRADE},
	{"the other one first", GET("Connection: upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n"), KEEP | UPGRADE},
	{"Upgrade that Connection does not name", GET("Upgrade: websocket\r\n"), KEEP},
	{"Connection names an Upgrade that is not there", GET("Connection: upgrade\r\n"), KEEP},
	{"upgrade in 1.0", IN("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"), 0},
};

static void
test_flags(void)
{
	for (size_t i = 0; i < COUNT(flag_cases); i++) {
		ssize_t r = parse_guarded(flag_cases[i].in, flag_cases[i].in.n);
		int got = (head.keep_alive ? KEEP : 0) | (head.expect_continue ? EXPECT : 0) |
		    (head.upgrade ? UPGRADE : 0) | (head.websocket ? WEBSOCKET : 0);

		test_result(r > 0 && got == flag_cases[i].flags, flag_cases[i].name, "r=%zd flags=%d", r, got);
	}
}

static const struct { struct slice in; enum http_form form; const char *host, *path, *query; int port; bool tls; } target_cases[] = {
	{IN("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_ORIGIN, NULL, "/", NULL, -1, false},
	{IN("GET /a?b?c HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_ORIGIN, NULL, "/a", "b?c", -1, false},
	{IN("GET /a? HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_ORIGIN, NULL, "/a", "", -1, false},
	{IN("GET //b.test/a HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_ORIGIN, NULL, "//b.test/a", NULL, -1, false},
	{IN("GET /?u=http://b/ HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_ORIGIN, NULL, "/", "u=http://b/", -1, false},
	{IN("GET HTTP://B.test:81/a?b HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_ABSOLUTE, "B.test", "/a", "b", 81, false},
	{IN("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_ABSOLUTE, "b", "/", NULL, -1, false},
	{IN("GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_ABSOLUTE, "b", "/", "q", -1, false},
	{IN("GET https://[::1]:8/ HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_ABSOLUTE, "[::1]", "/", NULL, 8, true},
	{IN("CONNECT b:443 HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_AUTHORITY, "b", NULL, NULL, 443, false},
	{IN("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"), HTTP_ASTERISK, NULL, "*", NULL, -1, false},
};

static bool
same(struct slice s, const char *want)
{
	return want == NULL ? s.p == NULL : s.p != NULL && slice_eq(s, slice_of(want));
}

static void
test_targets(void)
{
	for (size_t i = 0; i < COUNT(target_cases); i++) {
		ssize_t r = parse_guarded(target_cases[i].in, target_cases[i].in.n);
		char name[128];

		snprintf(name, sizeof name, "target of %.*s",
		    (int)(strstr(target_cases[i].in.p, " HTTP/1") - target_cases[i].in.p), target_cases[i].in.p);
		test_result(r > 0 && head.form == target_cases[i].form && head.tls == target_cases[i].tls &&
		    same(head.to.host, target_cases[i].host) && head.to.port == target_cases[i].port &&
		    same(head.path, target_cases[i].path) && same(head.query, target_cases[i].query), name,
		    "r=%zd form=%d", r, head.form);
	}
}

/* -- fields and their rules */
static const struct { const char *name; int rule; } rule_cases[] = {
	{"Connection", HDR_HOP | HDR_FIXED},
	{"KEEP-ALIVE", HDR_HOP | HDR_FIXED},
	{"Transfer_Encoding", HDR_FRAMING | HDR_FIXED},
	{"content_length", HDR_FRAMING | HDR_FIXED},
	{"Content-Length2", HDR_NO_TRAILER},
	{"Content-Type", HDR_NO_TRAILER | HDR_DOOR},
	{"Mcp-Session-Id", HDR_DOOR},
	{"Mcp", 0},
	{"Host", HDR_FRAMING | HDR_FIXED},
	{"Hos", 0},
	{"Hosts", 0},
	{"Proxy", HDR_PROXY | HDR_FIXED},
	{"Proxy-Authorization", HDR_PROXY | HDR_AUTH},
	{"proxy_connection", HDR_PROXY | HDR_FIXED},
	{"Proxyx", 0},
	{"X-Sallyport-Error", HDR_OURS | HDR_ANSWER_DROP | HDR_FIXED},
	{"X-Sallyport", 0},
	{"X_HTTP_Method_Override", HDR_ROUTING},
	{"X-Original-URL", HDR_ROUTING},
	{"X-Rewrite-Url", HDR_ROUTING},
	{"X-Forwarded-Prefix", HDR_ROUTING},
	{"X-Forwarded-For", HDR_NO_TRAILER},
	{"X-Forwarded-Proto", HDR_NO_TRAILER},
	{"X_Forwarded_Host", HDR_VHOST},
	{"Forwarded", HDR_VHOST | HDR_NO_TRAILER},
	{"X-Host", HDR_VHOST},
	{"X-Hostname", 0},
	{"X-Request-Id", 0},
	{"X-Request-Uri", HDR_ROUTING},
	{"HTTP-Method", HDR_ROUTING},
	{"X-Amz-Copy-Source", HDR_SECOND | 0 << 11},
	{"x_amz_rename_source", HDR_SECOND | 1 << 11},
	{"X-Amz-Copy-Source-If-Match", 0},
	{"Destination", HDR_SECOND | 4 << 11},
	{"Authorization", HDR_AUTH},
	{"Set-Cookie", HDR_AUTH},
	{"Alt-Svc", HDR_ANSWER_DROP},
	{"X-Amz-Checksum-Crc32", 0},
	{"x", 0},
	{"", 0},
};

static void
test_rules(void)
{
	bool tchars = true, values = true, rules = true, named;

	for (size_t i = 0; i < COUNT(rule_cases); i++) {
		size_t n = strlen(rule_cases[i].name);
		uint16_t rule = http_field_rule((struct slice){guard_copy(rule_cases[i].name, n), n});
		char name[96];

		snprintf(name, sizeof name, "rule of '%s'", rule_cases[i].name);
		test_result(rule == rule_cases[i].rule, name, "%#x", rule);
	}
	for (int c = 0; c < 256; c++) {
		char ch = (char)c;
		bool alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
		bool token = alnum || (c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL);

		tchars = tchars && http_is_token((struct slice){&ch, 1}) == token;
		for (size_t n = 1; n < 20; n++) {       /* among others, which are looked at eight at a time */
			char text[20];

			memset(text, n % 2 == 0 ? 'a' : '\t', sizeof text);
			text[n / 2] = ch;
			values = values && http_valid_field_value((struct slice){guard_copy(text, n), n}) ==
			    (c == '\t' || (c >= 0x20 && c != 0x7f));
		}
	}
	for (size_t i = 1; hdr_names[i].name != NULL; i++) {
		size_t n = strcspn(hdr_names[i].name, "* "), k = 1;

		rules = rules && n > 1;         /* "x*" would stand in no chain */
		while (k < i && !http_rule_fits(hdr_names[k].name, (struct slice){hdr_names[i].name, n}))
			k++;
		rules = rules && (hdr_names[i].name[n] == '*' ||
		    http_field_rule((struct slice){hdr_names[i].name, n}) == hdr_names[k].rule);
	}
	test_result(rules, "the first row that fits counts", "not so");
	test_result(tchars, "a field name is made of RFC 9110 5.6.2's tchar and nothing else", "not so");
	test_result(values, "a field value has no control byte but HTAB", "not so");
	test_result(!http_is_token(SLICE("")) && http_valid_field_value(SLICE("")),
	    "a name is never empty, a value may be", "not so");
	test_result(!http_valid_field_value(SLICE("a\r\nX: b")) && !http_valid_field_value(SLICE("a\nb")) &&
	    !http_valid_field_value(SLICE("a\0b")), "header injection: CR, LF and NUL are in no value", "one is");

	struct slice in = GET("X-A: 1\r\nConnection: x-b, X-A\r\nx-B: 2\r\nX-C: 3\r\nx-a: 4\r\n");
	named = parse_guarded(in, in.n) > 0;
	for (size_t i = 1; named && i < head.nfields; i++)
		named = (head.field[i].rule & HDR_HOP) != 0 ||
		    slice_eq(head.field[i].name, SLICE("X-C"));
	test_result(named && head.nfields == 6 && (head.field[4].rule & HDR_HOP) == 0,
	    "fields that Connection names are of this hop", "not so");
}

/* -- answers */
static const struct {
	const char *name;
	struct slice in;
	const char *method;
	int status;             /* 0: refused with -502 */
	enum http_body body;
	uint64_t length;
	bool keep;
} answers[] = {
	{"length", OK("Content-Length: 5\r\n"), "GET", 200, BODY_LENGTH, 5, true},
	{"chunked", OK("Transfer-Encoding: Chunked\r\n"), "GET", 200, BODY_CHUNKED, 0, true},
	{"neither: until the end", OK(""), "GET", 200, BODY_EOF, 0, false},
	{"HTTP/1.0", IN("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"), "GET", 200, BODY_LENGTH, 5, false},
	{"HTTP/1.0 keep-alive", IN("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\n"), "GET", 200, BODY_LENGTH, 5, true},
	{"close", OK("Content-Length: 5\r\nConnection: close\r\n"), "GET", 200, BODY_LENGTH, 5, false},
	{"missing reason phrase", IN("HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n"), "GET", 200, BODY_LENGTH, 0, true},
	{"missing reason phrase and space", IN("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n"), "GET", 200, BODY_LENGTH, 0, true},
	{"reason phrase of obs-text", IN("HTTP/1.1 404 Fehlt \344\r\nContent-Length: 0\r\n\r\n"), "GET", 404, BODY_LENGTH, 0, true},
	{"HEAD with a length", OK("Content-Length: 5\r\n"), "HEAD", 200, BODY_NONE, 5, true},
	{"HEAD with chunks", OK("Transfer-Encoding: chunked\r\n"), "HEAD", 200, BODY_NONE, 0, true},
	{"HEAD with neither", OK(""), "HEAD", 200, BODY_NONE, 0, true},
	{"head is not HEAD", OK("Content-Length: 5\r\n"), "head", 200, BODY_LENGTH, 5, true},
	{"204", IN("HTTP/1.1 204 No Content\r\n\r\n"), "GET", 204, BODY_NONE, 0, true},
	{"204 with a length", IN("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"), "GET", 204, BODY_NONE, 5, true},
	{"304 with a length", IN("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"), "GET", 304, BODY_NONE, 5, true},
	{"304 with chunks", IN("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"), "GET", 304, BODY_NONE, 0, true},
	{"100", IN("HTTP/1.1 100 Continue\r\n\r\n"), "POST", 100, BODY_NONE, 0, true},
	{"103", IN("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"), "GET", 103, BODY_NONE, 0, true},
	{"101", IN("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), "GET", 101, BODY_NONE, 0, true},
	{"CONNECT 200", OK("Content-Length: 5\r\n"), "CONNECT", 200, BODY_NONE, 5, true},
	{"CONNECT 407", IN("HTTP/1.1 407 No\r\nContent-Length: 5\r\n\r\n"), "CONNECT", 407, BODY_LENGTH, 5, true},
	{"status over 599", IN("HTTP/1.1 999 Linked In\r\nContent-Length: 0\r\n\r\n"), "GET", 999, BODY_LENGTH, 0, true},
	{"Connection that is no list of tokens names nothing", OK("Connection: timeout=5; max\r\nContent-Length: 0\r\n"), "GET", 200, BODY_LENGTH, 0, true},
	{"two Hosts mean nothing in an answer", OK("Host: a\r\nHost: a b\r\nContent-Length: 0\r\n"), "GET", 200, BODY_LENGTH, 0, true},

	{"two lengths", OK("Content-Length: 5\r\nContent-Length: 6\r\n"), "GET", 0, 0, 0, 0},
	{"two equal lengths", OK("Content-Length: 5\r\nContent-Length: 5\r\n"), "GET", 0, 0, 0, 0},
	{"list of equal lengths", OK("Content-Length: 5, 5\r\n"), "GET", 0, 0, 0, 0},
	{"length with chunked", OK("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), "GET", 0, 0, 0, 0},
	{"two lengths, to HEAD", OK("Content-Length: 5\r\nContent-Length: 6\r\n"), "HEAD", 0, 0, 0, 0},
	{"length -1", OK("Content-Length: -1\r\n"), "GET", 0, 0, 0, 0},
	{"Transfer-Encoding: gzip", OK("Transfer-Encoding: gzip\r\n"), "GET", 0, 0, 0, 0},
	{"Transfer-Encoding: gzip, chunked", OK("Transfer-Encoding: gzip, chunked\r\n"), "GET", 0, 0, 0, 0},
	{"chunked from HTTP/1.0", IN("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), "GET", 0, 0, 0, 0},
	{"bare LF", IN("HTTP/1.1 200 OK\nContent-Length: 0\n\n"), "GET", 0, 0, 0, 0},
	{"bare CR in a value", OK("X: a\rb\r\n"), "GET", 0, 0, 0, 0},
	{"folded field", OK("X: a\r\n b\r\n"), "GET", 0, 0, 0, 0},
	{"space before the colon", OK("Content-Length : 5\r\n"), "GET", 0, 0, 0, 0},
	{"NUL", OK("X: a\0b\r\n"), "GET", 0, 0, 0, 0},
	{"HTTP/2", IN("HTTP/2 200\r\n\r\n"), "GET", 0, 0, 0, 0},
	{"HTTP/2.0", IN("HTTP/2.0 200 OK\r\n\r\n"), "GET", 0, 0, 0, 0},
	{"ICY", IN("ICY 200 OK\r\n\r\n"), "GET", 0, 0, 0, 0},
	{"two-digit status", IN("HTTP/1.1 20 OK\r\n\r\n"), "GET", 0, 0, 0, 0},
	{"four-digit status", IN("HTTP/1.1 2000 OK\r\n\r\n"), "GET", 0, 0, 0, 0},
	{"status 099", IN("HTTP/1.1 099 OK\r\n\r\n"), "GET", 0, 0, 0, 0},
	{"status +20", IN("HTTP/1.1 +20 OK\r\n\r\n"), "GET", 0, 0, 0, 0},
	{"two spaces before the status", IN("HTTP/1.1  200 OK\r\n\r\n"), "GET", 0, 0, 0, 0},
	{"control byte in the phrase", IN("HTTP/1.1 200 O\033K\r\n\r\n"), "GET", 0, 0, 0, 0},
	{"empty line first", IN("\r\nHTTP/1.1 200 OK\r\n\r\n"), "GET", 0, 0, 0, 0},
	{"a body where a head should be", IN("<html>\r\n\r\n"), "GET", 0, 0, 0, 0},
	{"TLS record", IN("\025\003\003\000\002\002\n"), "GET", 0, 0, 0, 0},
};

static const char *
answer_at_every_prefix(struct slice in, struct slice method, bool refused)
{
	for (size_t n = 0; n <= in.n; n++) {
		ssize_t r = http_parse_response(guard_copy(in.p, n), n, method, &head);

		if (refused ? r > 0 || (n == in.n && r != -502) : r != (n < in.n ? 0 : (ssize_t)n))
			return refused ? "not refused" : n < in.n ? "a prefix is not 'need more'" : "refused";
	}
	return NULL;
}

static void
test_answers(void)
{
	for (size_t i = 0; i < COUNT(answers); i++) {
		const char *why = answer_at_every_prefix(answers[i].in, slice_of(answers[i].method),
		    answers[i].status == 0);
		char name[128];

		if (why == NULL && answers[i].status != 0 && (head.status != answers[i].status ||
		    head.body != answers[i].body || head.length != answers[i].length ||
		    head.keep_alive != answers[i].keep))
			why = "read otherwise";
		snprintf(name, sizeof name, "answer%s: %s", answers[i].status == 0 ? ", 502" : "", answers[i].name);
		test_result(why == NULL, name, "%s", why);
	}
}

/* -- chunked: `end` is CHUNK_END, CHUNK_BAD or CHUNK_MORE; `rest` bytes belong to what follows. */
static const struct {
	const char *name;
	struct slice in;
	enum chunk_event end;
	const char *body, *trailers;
	size_t rest;
} chunked_cases[] = {
	{"empty", IN("0\r\n\r\n"), CHUNK_END, "", "", 0},
	{"one chunk", IN("5\r\nhello\r\n0\r\n\r\n"), CHUNK_END, "hello", "", 0},
	{"several", IN("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"), CHUNK_END, "abc", "", 0},
	{"hexadecimal of both cases", IN("A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n"), CHUNK_END, "01234567890123456789a", "", 0},
	{"leading zeros", IN("0005\r\nhello\r\n000\r\n\r\n"), CHUNK_END, "hello", "", 0},
	{"extensions are skipped", IN("5;a=b;c=\"d;\\\"e\" ; f\r\nhello\r\n0;x\r\n\r\n"), CHUNK_END, "hello", "", 0},
	{"white space around an extension's parts", IN("5 \t; a\t=\t b ;c\t;d=\"\" \t;e\r\nhello\r\n0\r\n\r\n"), CHUNK_END, "hello", "", 0},
	{"a quoted value holds what a field may", IN("5;a=\"\t \200\377;=\\\"\\\\\\\300\"\r\nhello\r\n0\r\n\r\n"), CHUNK_END, "hello", "", 0},
	{"trailers", IN("0\r\nA: 1\r\nB: 2\r\n\r\n"), CHUNK_END, "", "A: 1\r\nB: 2\r\n\r\n", 0},
	{"what follows stays", IN("0\r\n\r\nHTTP/1.1 200"), CHUNK_END, "", "", 12},
	{"what follows trailers stays", IN("0\r\nA: 1\r\n\r\n0\r\n"), CHUNK_END, "", "A: 1\r\n\r\n", 3},
	{"CRLF in the data", IN("4\r\n\r\n0\r\r\n0\r\n\r\n"), CHUNK_END, "\r\n0\r", "", 0},

	{"no size", IN("\r\n"), CHUNK_BAD, "", "", 0},
	{"no size before an extension", IN(";a\r\n"), CHUNK_BAD, "", "", 0},
	{"sign", IN("+5\r\nhello\r\n"), CHUNK_BAD, "", "", 0},
	{"minus", IN("-5\r\nhello\r\n"), CHUNK_BAD, "", "", 0},
	{"0x", IN("0x5\r\nhello\r\n"), CHUNK_BAD, "", "", 0},
	{"space before the size", IN(" 5\r\nhello\r\n"), CHUNK_BAD, "", "", 0},
	{"space after the size", IN("5 \r\nhello\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: an empty extension", IN("5;\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: an empty extension before another", IN("5;;a\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: an extension without a name", IN("5;=b\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: without a value", IN("5;a=\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: without a value before another", IN("5;a=;b\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: white space and nothing behind it", IN("5;a=b \r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: white space behind a name alone", IN("5;a \r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: white space behind the semicolon alone", IN("5; \r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: two values", IN("5;a=b c\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: two equal signs", IN("5;a=b=c\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: a quote that is not closed", IN("5;a=\"b\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: an escape at the end", IN("5;a=\"b\\\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: text behind a quoted value", IN("5;a=\"b\"c\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: a quote within a token", IN("5;a=b\"c\"\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: a quoted name", IN("5;\"a\"=b\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: obs-text in a name", IN("5;\200\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: obs-text in a token", IN("5;a=\200\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: a comma", IN("5;a,b\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: a separator in a token", IN("5;a=b/c\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: a value without a name", IN("5 =b\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: a name behind white space, without semicolon", IN("5 a=b\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: DEL in a quoted value", IN("5;a=\"\177\"\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: NUL in a quoted value", IN("5;a=\"\000\"\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"extension: CR in a quoted value", IN("5;a=\"\r\"\r\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"underscore", IN("1_0\r\nhello\r\n"), CHUNK_BAD, "", "", 0},
	{"size over 63 bits", IN("8000000000000000\r\nx"), CHUNK_BAD, "", "", 0},
	{"size that overflows 64 bits to 5", IN("10000000000000005\r\nhello\r\n"), CHUNK_BAD, "", "", 0},
	{"seventeen zeros", IN("00000000000000000\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"bare LF after the size", IN("5\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"bare CR after the size", IN("5\rhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"bare LF in an extension (TERM.EXT)", IN("5;a\nhello\r\n0\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"bare CR in an extension", IN("5;a\rb\r\nhello\r\n"), CHUNK_BAD, "", "", 0},
	{"NUL in an extension", IN("5;a\0b\r\nhello\r\n"), CHUNK_BAD, "", "", 0},
	{"data longer than its size", IN("5\r\nhello!\r\n0\r\n\r\n"), CHUNK_BAD, "hello", "", 0},
	{"data shorter than its size", IN("5\r\nhell\r\n0\r\n\r\n"), CHUNK_BAD, "hell\r", "", 0},
	{"bare LF after the data", IN("5\r\nhello\n0\r\n\r\n"), CHUNK_BAD, "hello", "", 0},
	{"bare CR after the data", IN("5\r\nhello\r0\r\n\r\n"), CHUNK_BAD, "hello", "", 0},
	{"nothing after the data", IN("5\r\nhello0\r\n\r\n"), CHUNK_BAD, "hello", "", 0},
	{"bare LF ends the body", IN("0\r\n\n"), CHUNK_BAD, "", "", 0},
	{"bare CR ends the body", IN("0\r\n\rx"), CHUNK_BAD, "", "", 0},
	{"folded trailer", IN("0\r\nA: 1\r\n 2\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"trailer without colon", IN("0\r\nA\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"bare LF in trailers", IN("0\r\nA: 1\nB: 2\r\n\r\n"), CHUNK_BAD, "", "", 0},
	{"space before a trailer's colon", IN("0\r\nA : 1\r\n\r\n"), CHUNK_BAD, "", "", 0},

	{"ends in the size", IN("5"), CHUNK_MORE, "", "", 0},
	{"ends in the data", IN("5\r\nhel"), CHUNK_MORE, "hel", "", 0},
	{"ends before the last chunk", IN("5\r\nhello\r\n"), CHUNK_MORE, "hello", "", 0},
	{"ends before the empty line", IN("0\r\n"), CHUNK_MORE, "", "", 0},
	{"ends in the trailers", IN("0\r\nA: 1\r\n"), CHUNK_MORE, "", "", 0},
};

struct outcome {
	enum chunk_event end;
	size_t used, body_n, trailers_n;
	char body[256], trailers[256];
};

/* Feeds `in` in reads of `step` bytes; the bytes that are not used come again with more behind them. */
static void
decode(struct slice in, size_t step, struct outcome *o)
{
	struct http_chunked c = {0};
	size_t have = 0, used;
	struct slice run;

	*o = (struct outcome){.end = CHUNK_MORE};
	for (;;) {
		o->end = http_chunked_step(&c, guard_copy(in.p + o->used, have - o->used), have - o->used, &used, &run);
		o->used += used;
		if (o->end == CHUNK_DATA && o->body_n + run.n < sizeof o->body) {
			memcpy(o->body + o->body_n, run.p, run.n);
			o->body_n += run.n;
		}
		if (o->end == CHUNK_TRAILERS && run.n < sizeof o->trailers)
			memcpy(o->trailers, run.p, o->trailers_n = run.n);
		if (o->end == CHUNK_END || o->end == CHUNK_BAD || (o->end == CHUNK_MORE && have == in.n))
			return;
		if (o->end == CHUNK_MORE)
			have = in.n - have < step ? in.n : have + step;
	}
}

static void
test_chunked(void)
{
	for (size_t i = 0; i < COUNT(chunked_cases); i++) {
		struct slice in = chunked_cases[i].in;
		char name[128];
		bool ok = true;

		for (size_t step = 1; step <= in.n; step++) {
			struct outcome o;

			decode(in, step, &o);
			ok = ok && o.end == chunked_cases[i].end &&
			    same((struct slice){o.body, o.body_n}, chunked_cases[i].body) &&
			    same((struct slice){o.trailers, o.trailers_n}, chunked_cases[i].trailers) &&
			    (o.end != CHUNK_END || o.used == in.n - chunked_cases[i].rest);
		}
		snprintf(name, sizeof name, "chunked, %s: %s", chunked_cases[i].end == CHUNK_END ? "taken" :
		    chunked_cases[i].end == CHUNK_BAD ? "refused" : "unfinished", chunked_cases[i].name);
		test_result(ok, name, "not so in some cut");
	}
}

/* `n` extension bytes on each of `chunks` chunks of `size` bytes: are they taken? */
static bool
extensions_taken(size_t n, size_t chunks, size_t size)
{
	static char text[GUARD_ROOM];
	struct http_chunked c = {0};
	struct slice run;
	size_t used, at = (size_t)snprintf(text, sizeof text, "%zx;", size);

	memset(text + at, 'e', n);
	at += n;
	memcpy(text + at, "\r\n", 2);
	memset(text + at + 2, 'd', size);
	at += 2 + size;
	memcpy(text + at, "\r\n", 2);
	at += 2;
	for (size_t i = 0; i < chunks; i++)
		for (size_t done = 0; done < at; done += used)
			if (http_chunked_step(&c, text + done, at - done, &used, &run) == CHUNK_BAD)
				return false;
	return true;
}

static void
test_chunked_limits(void)
{
	struct slice s = big_head(HTTP_TRAILERS_MAX, 0, "");
	struct http_chunked c = {0};
	struct slice run;
	size_t used;
	char zeros[] = "0\r\n";

	test_result(extensions_taken(HTTP_CHUNK_EXT_MAX, 1, 1), "chunk extension of 16 KiB is skipped", "refused");
	test_result(!extensions_taken(HTTP_CHUNK_EXT_MAX + 1, 1, 1), "chunk extension over 16 KiB is refused", "taken");
	test_result(!extensions_taken(64, 2000, 1), "many small extensions on tiny chunks are refused", "taken");
	test_result(extensions_taken(64, 2000, 1024), "extensions on chunks that carry data go on for ever", "refused");
	test_result(http_chunked_step(&c, zeros, 3, &used, &run) == CHUNK_MORE && used == 3 &&
	    http_chunked_step(&c, guard_copy(s.p, s.n), s.n, &used, &run) == CHUNK_TRAILERS && used == s.n,
	    "trailers of 8 KiB", "refused");
	s = big_head(HTTP_TRAILERS_MAX + 1, 0, "");
	c = (struct http_chunked){0};
	http_chunked_step(&c, zeros, 3, &used, &run);
	test_result(http_chunked_step(&c, guard_copy(s.p, s.n), s.n, &used, &run) == CHUNK_BAD,
	    "trailers over 8 KiB are refused", "taken");
	s = big_head(0, HTTP_TRAILER_FIELDS_MAX + 1, "");
	c = (struct http_chunked){0};
	http_chunked_step(&c, zeros, 3, &used, &run);
	test_result(http_chunked_step(&c, guard_copy(s.p, s.n), s.n, &used, &run) == CHUNK_BAD,
	    "33 trailer fields are refused", "taken");
	test_result(http_chunked_step(&c, zeros, 3, &used, &run) == CHUNK_BAD, "broken framing stays broken", "not so");
}

static void
test_trailers(void)
{
	static const struct { const char *line; bool passes; } cases[] = {
		{"X-Amz-Checksum-Crc32: a\r\n\r\n", true},
		{"Grpc-Status: 0\r\n\r\n", true},
		{"ETag: x\r\n\r\n", true},
		{"Content-Length: 5\r\n\r\n", false},
		{"Transfer-Encoding: chunked\r\n\r\n", false},
		{"Transfer_Encoding: chunked\r\n\r\n", false},
		{"Host: b\r\n\r\n", false},
		{"Connection: close\r\n\r\n", false},
		{"Trailer: x\r\n\r\n", false},
		{"Authorization: Bearer x\r\n\r\n", false},
		{"Proxy-Authorization: x\r\n\r\n", false},
		{"Cookie: x\r\n\r\n", false},
		{"Set-Cookie: x\r\n\r\n", false},
		{"X-HTTP-Method-Override: DELETE\r\n\r\n", false},
		{"X-Original-URL: /admin\r\n\r\n", false},
		{"X-Forwarded-For: 127.0.0.1\r\n\r\n", false},
		{"X-Sallyport-Error: x\r\n\r\n", false},
		{"Content-Type: text/html\r\n\r\n", false},
		{"Cache-Control: no-store\r\n\r\n", false},
		{"Expect: 100-continue\r\n\r\n", false},
		{"If-Match: x\r\n\r\n", false},
	};
	struct http_field field[HTTP_TRAILER_FIELDS_MAX];
	size_t n;

	for (size_t i = 0; i < COUNT(cases); i++) {
		struct slice s = slice_of(cases[i].line);
		char name[128];
		bool ok = http_parse_fields(s.p, s.n, field, HTTP_TRAILER_FIELDS_MAX, &n) == (ssize_t)s.n && n == 1 &&
		    http_trailer_allowed(&field[0]) == cases[i].passes;

		snprintf(name, sizeof name, "trailer %s: %.*s", cases[i].passes ? "passes" : "is dropped",
		    (int)(s.n - 4), s.p);
		test_result(ok, name, "not so");
	}
}

/* -- hosts */
static const struct { const char *in, *out; bool ip; const char *why; } hosts[] = {
	{"example.com", "example.com", false, NULL},
	{"EXAMPLE.Com", "example.com", false, NULL},
	{"example.com.", "example.com", false, NULL},
	{"localhost", "localhost", false, NULL},
	{"a_b.example-.c-", "a_b.example-.c-", false, NULL},
	{"xn--bcher-kva.example", "xn--bcher-kva.example", false, NULL},
	{"1.example", "1.example", false, NULL},
	{"127.0.0.1.example", "127.0.0.1.example", false, NULL},
	{"1e100.net", "1e100.net", false, NULL},
	{"0x7f.1.a", "0x7f.1.a", false, NULL},
	{"127.0.0.1", "127.0.0.1", true, NULL},
	{"127.0.0.1.", "127.0.0.1", true, NULL},
	{"127.1", "127.0.0.1", true, NULL},
	{"0x7f.1", "127.0.0.1", true, NULL},
	{"0X7F.1", "127.0.0.1", true, NULL},
	{"0177.0.0.1", "127.0.0.1", true, NULL},
	{"2130706433", "127.0.0.1", true, NULL},
	{"0x7f000001", "127.0.0.1", true, NULL},
	{"0", "0.0.0.0", true, NULL},
	{"[::1]", "::1", true, NULL},
	{"::1", "::1", true, NULL},
	{"[::]", "::", true, NULL},
	{"[0:0:0:0:0:0:0:1]", "::1", true, NULL},
	{"[2001:DB8::A]", "2001:db8::a", true, NULL},
	{"[::ffff:127.0.0.1]", "::ffff:127.0.0.1", true, NULL},
	{"[::ffff:7f00:1]", "::ffff:127.0.0.1", true, NULL},

	{"", NULL, false, "empty"},
	{".", NULL, false, "empty"},
	{"..", NULL, false, "empty label"},
	{".a", NULL, false, "empty label"},
	{"a..b", NULL, false, "empty label"},
	{"a..", NULL, false, "empty label"},
	{"1.2.3.256", NULL, false, "ends in a number"},
	{"1.2.3.4.5", NULL, false, "ends in a number"},
	{"example.1", NULL, false, "ends in a number"},
	{"example.0x1", NULL, false, "ends in a number"},
	{"09.1", NULL, false, "ends in a number"},
	{"99999999999", NULL, false, "ends in a number"},
	{"a b", NULL, false, "character"},
	{"a%2eb", NULL, false, "character"},
	{"a/b", NULL, false, "character"},
	{"a\\b", NULL, false, "character"},
	{"a@b", NULL, false, "character"},
	{"*.example.com", NULL, false, "character"},
	{"a,b", NULL, false, "character"},
	{"a\tb", NULL, false, "character"},
	{"a\177", NULL, false, "character"},
	{"[127.0.0.1]", NULL, false, "character"},
	{"[a]", NULL, false, "character"},
	{"a:80", NULL, false, "colon"},
	{"[::1", NULL, false, "bracket"},
	{"::1]", NULL, false, "colon"},
	{"[::1%25eth0]", NULL, false, "IPv6 zone"},
	{"fe80::1%eth0", NULL, false, "IPv6 zone"},
	{"[::1]:80", NULL, false, "bracket"},
	{"[]", NULL, false, "character"},
	{"[:]", NULL, false, "colon"},
	{"b\303\274cher.example", NULL, false, "letters outside ASCII: a host name is written in its xn-- form"},
	{"\377.de", NULL, false, "letters outside ASCII"},
	{"\342\200\213a.b", NULL, false, "letters outside ASCII"},
	{"127\343\200\2020.0.1", NULL, false, "letters outside ASCII"},
};

static void
test_hosts(void)
{
	static char longest[300];
	char out[256], name[128];
	const char *why;
	bool ip;

	for (size_t i = 0; i < COUNT(hosts); i++) {
		size_t len = strlen(hosts[i].in);
		bool ok;

		for (size_t k = 0; k < len; k++)
			http_canonical_host((struct slice){guard_copy(hosts[i].in, k), k}, out, &ip);
		why = http_canonical_host((struct slice){guard_copy(hosts[i].in, len), len}, out, &ip);
		ok = why == NULL;
		snprintf(name, sizeof name, "host '%s' %s%s", hosts[i].in, hosts[i].out == NULL ? "is refused: " : "is ",
		    hosts[i].out == NULL ? hosts[i].why : hosts[i].out);
		if (hosts[i].out != NULL)
			test_result(ok && strcmp(out, hosts[i].out) == 0 && ip == hosts[i].ip, name,
			    "got %s", ok ? out : why);
		else
			test_result(!ok && strncmp(why, hosts[i].why, strlen(hosts[i].why)) == 0, name, "%s",
			    ok ? "taken" : why);
	}
	memset(longest, 'a', sizeof longest);
	test_result(http_canonical_host((struct slice){longest, 63}, out, &ip) == NULL &&
	    http_canonical_host((struct slice){longest, 64}, out, &ip) != NULL, "label of 63 bytes, not 64", "not so");
	for (size_t i = 63; i < sizeof longest; i += 64)
		longest[i] = '.';
	test_result(http_canonical_host((struct slice){longest, 253}, out, &ip) == NULL && strlen(out) == 253 &&
	    http_canonical_host((struct slice){longest, 254}, out, &ip) != NULL, "name of 253 bytes, not 254", "not so");
}

static const struct { const char *in, *host; int port; } authorities[] = {
	{"a", "a", -1},
	{"a:1", "a", 1},
	{"a:65535", "a", 65535},
	{"a:00443", "a", 443},
	{"[::1]", "[::1]", -1},
	{"[::1]:443", "[::1]", 443},
	{"a:000443", NULL, 0},
	{"a:", "a", -1},
	{":", NULL, 0},
	{"a::", NULL, 0},
	{"a:0", NULL, 0},
	{"a:65536", NULL, 0},
	{"a:99999", NULL, 0},
	{"a:x", NULL, 0},
	{"a:-1", NULL, 0},
	{"a: 1", NULL, 0},
	{"a:1:2", NULL, 0},
	{":1", NULL, 0},
	{"", NULL, 0},
	{"u@a:1", NULL, 0},
	{"u:p@a", NULL, 0},
	{"a/b", NULL, 0},
	{"a?b", NULL, 0},
	{"a#b", NULL, 0},
	{"a\\b", NULL, 0},
	{"a b", NULL, 0},
	{"[::1", NULL, 0},
	{"[::1]x", NULL, 0},
	{"[::1]443", NULL, 0},
	{"[::1]:", "[::1]", -1},
};

static void
test_authorities(void)
{
	for (size_t i = 0; i < COUNT(authorities); i++) {
		size_t len = strlen(authorities[i].in);
		struct slice host;
		char name[96];
		int port;
		bool ok;

		for (size_t k = 0; k < len; k++)
			http_parse_authority((struct slice){guard_copy(authorities[i].in, k), k}, &host, &port);
		ok = http_parse_authority((struct slice){guard_copy(authorities[i].in, len), len}, &host, &port);
		snprintf(name, sizeof name, "authority '%s' is %s", authorities[i].in,
		    authorities[i].host == NULL ? "refused" : "taken");
		test_result(ok == (authorities[i].host != NULL) && (!ok || (same(host, authorities[i].host) &&
		    port == authorities[i].port)), name, "not so");
	}
}

/* What a head is refused for, and where. */
static void
test_reasons(void)
{
	static char big[HTTP_HEAD_MAX + 100], many[HTTP_HEAD_MAX];
	struct { struct slice in; bool answer; const char *why; size_t line; } cases[] = {
		{IN("GET nowhere HTTP/1.1\r\n\r\n"), false, "a malformed request line", 0},
		{IN("GET / HTTP/1.1\nHost: a\r\n\r\n"), false, "a malformed request line", 0},
		{IN("GET / HTTP/2.0\r\n\r\n"), false, "another version than HTTP/1.1 or HTTP/1.0", 0},
		{IN("GET / HTTP/1.1\r\nX: 1\r\n\r\n"), false, "no Host field", 0},
		{IN("GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n"), false, "a malformed header field", 3},
		{IN("GET / HTTP/1.1\r\nHost: a\r\nX: 1\nY: 2\r\n\r\n"), false, "a malformed header field", 3},
		{IN("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), false, "two Host fields", 3},
		{IN("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), false, "a malformed Host field", 2},
		{IN("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n"), false, "a body behind CONNECT", 0},
		{IN("HTTP/1.1 20 OK\r\n\r\n"), true, "a malformed status line", 0},
		{IN("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: 1\r\nContent-Length: 5\r\n\r\n"), true, "two Content-Length fields", 4},
		{IN("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n"), true, "a Content-Length that is no number", 2},
		{IN("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"), true, "a Transfer-Encoding other than one chunked in HTTP/1.1", 2},
		{IN("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"), true, "both Content-Length and Transfer-Encoding", 0},
		{{many, 0}, true, "more than 100 header fields", 0},
		{{big, sizeof big}, true, "a head of more than 64 KiB", 0},
		{{big, HTTP_HEAD_MAX}, true, "a head of more than 64 KiB", 0},
	};

	memset(big, 'a', sizeof big);
	memcpy(big, "HTTP/1.1 200 OK\r\nX: ", 20);
	cases[14].in.n = (size_t)snprintf(many, sizeof many, "HTTP/1.1 200 OK\r\n");
	for (int i = 0; i < 101; i++)
		cases[14].in.n += (size_t)snprintf(many + cases[14].in.n, sizeof many - cases[14].in.n, "X-%d: 1\r\n", i);
	cases[14].in.n += (size_t)snprintf(many + cases[14].in.n, sizeof many - cases[14].in.n, "\r\n");
	for (size_t i = 0; i < COUNT(cases); i++) {
		ssize_t n = cases[i].answer ? http_parse_response(cases[i].in.p, cases[i].in.n, SLICE("GET"), &head) :
		    http_parse_request(cases[i].in.p, cases[i].in.n, &head);

		test_result(n < 0 && head.why != NULL && strcmp(head.why, cases[i].why) == 0 && head.line == cases[i].line,
		    cases[i].why, "%zd %s, line %zu", n, head.why != NULL ? head.why : "nothing", head.line);
	}
}

/* How long an answer says that its connection is kept. */
static void
test_keep_alive(void)
{
	static const struct { struct slice in; int64_t ms; bool keep; } cases[] = {
		{OK("Content-Length: 0\r\n"), 0, true},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=5\r\n"), 4000, true},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=5, max=100\r\n"), 4000, true},
		{OK("Content-Length: 0\r\nKeep-Alive: max=100 , Timeout=2\r\n"), 1000, true},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=5\r\nKeep-Alive: timeout=3\r\n"), 2000, true},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=1\r\n"), 0, false},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=0\r\n"), 0, false},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=99999999999\r\n"), 0, true},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=-1, timeouts=2, timeout\r\n"), 0, true},
		{OK("Content-Length: 0\r\nKeep-Alive: 300\r\n"), 0, true},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout = 5\r\n"), 4000, true},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=\"5\"\r\n"), 4000, true},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=5;max=100\r\n"), 4000, true},
		{OK("Content-Length: 0\r\nKeep-Alive: max=9; timeout=5s\r\n"), 4000, true},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=1.5\r\n"), 0, false},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=9, timeout=3, timeout=7\r\n"), 2000, true},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=, max=5, timeout\r\n"), 0, true},
		{OK("Content-Length: 0\r\nKeep-Alive: timeout=99999999999999999999999\r\n"), 0, true},
		{IN("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n"), 4000, true},
		{IN("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nKeep-Alive: timeout=5\r\n\r\n"), 4000, false},
	};

	for (size_t i = 0; i < COUNT(cases); i++) {
		ssize_t n = http_parse_response(cases[i].in.p, cases[i].in.n, SLICE("GET"), &head);
		char name[32];

		snprintf(name, sizeof name, "Keep-Alive, %zu", i + 1);
		test_result(n > 0 && head.keep_ms == cases[i].ms && head.keep_alive == cases[i].keep, name, "%lld ms, %d",
		    (long long)head.keep_ms, head.keep_alive);
	}
}

int
main(void)
{
	test_reasons();
	test_keep_alive();
	test_requests();
	test_limits();
	test_flags();
	test_targets();
	test_rules();
	test_answers();
	test_chunked();
	test_chunked_limits();
	test_trailers();
	test_hosts();
	test_authorities();
	return test_end();
}
