/* How long one connection may keep the loop: chunks of one byte, interim answers without end, frames of two bytes.
 * What is counted is what a call takes from an endless source, never time. */
#include PROXY_C
#include "guard.h"

#define PIECES_MAX (2 * FLOW_TURN_MAX / FLOW_PIECE_COST) /* in one turn: some milliseconds */

static uint64_t taken;                  /* bytes that were read from the source */

/* A file has always more to read, as a peer on a fast line has. */
static int
source(const char *head, const char *unit)
{
	static char block[64 * 1024];
	size_t n = strlen(unit), k = 0;
	FILE *f = tmpfile();

	assert(f != NULL);
	while (k + n <= sizeof block)
		memcpy(block + (k += n) - n, unit, n);
	fputs(head, f);
	for (int i = 0; i < 400; i++)
		fwrite(block, k, 1, f);
	fflush(f);
	rewind(f);
	return fileno(f);
}

/* Takes all, at once: a blocking socket whose other end is read by a process of its own. */
static int
sink(void)
{
	static char block[1 << 20];
	int pair[2];
	pid_t pid;

	assert(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && (pid = fork()) >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pair[0]);
		while (read(pair[1], block, sizeof block) > 0)
			;
		_exit(0);
	}
	close(pair[1]);
	return pair[0];
}

static void
turn_nothing(struct watch *w)
{
	(void)w;
}

static void
peer_from(struct peer *p, int fd)
{
	peer_init(p, fd, turn_nothing);
	p->watch.readable = p->watch.writable = true;
	taken = 0;
}

static void
told(const char *name, bool again, uint64_t pieces)
{
	test_result(again && pieces <= PIECES_MAX, name, "%s another turn, %llu pieces", again ? "asks for" : "no",
	    (unsigned long long)pieces);
}

static void
test_flow(const char *name, const char *unit, bool chunked)
{
	struct peer src, dst;
	struct flow f = {.done = false};
	enum flow_io io;

	peer_from(&src, source("", unit));
	peer_from(&dst, sink());
	flow_init(&f, &src, &dst, BODY_CHUNKED, 0, chunked);
	io = flow_pump(&f);
	told(name, io == FLOW_TURN, src.received / strlen(unit));
	flow_free(&f);
	peer_close(&src);
	peer_close(&dst);
}

static void
test_held_body(void)
{
	struct conn *c = calloc(1, sizeof *c);

	assert(c != NULL && (c->req = req_new(c)) != NULL);
	c->state = CONN_DECIDE;
	c->req->head.body = BODY_CHUNKED;
	peer_from(&c->peer, source("", "1\r\nx\r\n"));
	assert(req_begin_body(c->req, 16 * 1024 * 1024, false));
	loop_undefer(&c->defer);
	conn_read_body(c);
	told("a body that a policy reads", c->defer.queued && c->req->body_reading, c->peer.received / 6);
	loop_undefer(&c->defer);
	timer_stop(&c->timer);
	req_free(c->req);
	peer_close(&c->peer);
	free(c);
}

static void
test_fetch(const char *name, const char *head, const char *unit)
{
	struct fetch f = {.method = SLICE("GET"), .up_flow.done = true};

	buf_init(&f.head_bytes, HTTP_HEAD_MAX);
	buf_init(&f.body, FETCH_BODY_MAX);
	assert((f.up = calloc(1, sizeof *f.up)) != NULL);
	f.up->state = UP_OPEN;
	peer_from(&f.up->peer, source(head, unit));
	fetch_advance(&f.defer);
	told(name, f.defer.queued && !f.wait.done, f.up->peer.received / strlen(unit));
	fetch_free(&f.wait);
	test_result(!f.defer.queued, "  and none once it is freed", "it is queued");
	loop_run_deferred();
}

/* An upstream that says 100 and never answers, to a client that cannot read it (HTTP/1.0). */
static void
test_interim(void)
{
	static const char unit[] = "HTTP/1.1 100 C\r\n\r\n";
	struct conn *c = calloc(1, sizeof *c);
	struct req *r;

	assert(c != NULL && (r = c->req = req_new(c)) != NULL);
	c->state = CONN_RELAY;
	r->head.method = SLICE("GET");
	r->body_read = r->up_flow.done = true;
	assert((r->up = calloc(1, sizeof *r->up)) != NULL);
	r->up->state = UP_OPEN;
	peer_from(&c->peer, sink());
	c->peer.watch.readable = false;
	peer_from(&r->up->peer, source("", unit));
	conn_step_relay(c);
	told("interim answers", c->state == CONN_RELAY && c->defer.queued, r->up->peer.received / (sizeof unit - 1));
	loop_undefer(&c->defer);
	timer_stop(&c->timer);
	req_free(r);
	peer_close(&c->peer);
	loop_run_deferred();
	free(c);
}

static void
test_frames(const char *name, const char *unit, size_t n)
{
	struct subst s = {.n = 1};
	struct flow flow = {.done = false};
	struct peer src, dst;
	enum flow_io io;
	FILE *f = tmpfile();

	assert(f != NULL && secret_init());
	for (size_t i = 0; i < 4 * 1024 * 1024 / n; i++)
		fwrite(unit, n, 1, f);
	fflush(f);
	rewind(f);
	s.row[0] = (struct subst_row){.placeholder = SLICE("placeholder"), .name = SLICE(""), .secret = secret_new(4), .place = PLACE_WS};
	peer_from(&src, fileno(f));
	peer_from(&dst, sink());
	flow_init(&flow, &src, &dst, BODY_EOF, 0, false);
	assert((flow.filter = filter_ws_new(&s)) != NULL);
	io = flow_pump(&flow);
	test_result(!flow.done, name, "ended");
	told("  and the turn ends", io == FLOW_TURN, src.received / n / 2);
	flow_free(&flow);
	peer_close(&src);
	peer_close(&dst);
}

int
main(void)
{
	signal(SIGCHLD, SIG_IGN);
	test_flow("chunks of one byte, as chunks", "1\r\nx\r\n", true);
	test_flow("chunks of one byte, for HTTP/1.0", "1\r\nx\r\n", false);
	test_flow("sizes with zeros before them", "0000000000000001\r\nx\r\n", true);
	test_held_body();
	test_fetch("an answer to a fetch", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n");
	test_fetch("interim answers to a fetch", "", "HTTP/1.1 100 C\r\n\r\n");
	test_interim();
	test_frames("empty frames with a mask", "\x81\x80" "abcd", 6);
	test_frames("pings", "\x89\x80" "abcd", 6);
	return test_end();
}
