/* The upstream proxy: what it is asked, what its answer makes of the connection however it is cut, and what happens when the
 * setting changes between the request and the dial. */
#include PROXY_C
#include "guard.h"

#define ASKED "CONNECT far.test:8443 HTTP/1.1\r\nHost: far.test:8443\r\n"

static unsigned via_events;

static void
event(struct upstream *u)
{
	(void)u;
	via_events++;
}

static void
set_proxy(const char *host, const char *authorization)
{
	text_copy(via.host, sizeof via.host, host);
	via.port = 3128;
	via.epoch++;
	secret_drop(&via.authorization);
	via.authorization = authorization != NULL ? secret_copy(authorization, strlen(authorization)) : NULL;
}

static struct upstream *
via_through(const char *host)
{
	struct upstream *u = upstream_new("", host, 8443, false, NULL, true);

	assert(u != NULL);
	u->owner = u;
	u->event = event;
	via_events = 0;
	return u;
}

/* The dial succeeds; the proxy's end of the connection. */
static int
dialled(struct upstream *u)
{
	int pair[2];

	assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
	u->dial.next = 1;
	u->dial.deadline = clock_now() + 1000;
	upstream_dialled(&u->dial, pair[0], NULL, NULL);
	return pair[1];
}

static void
over(struct upstream *u, int proxy)
{
	if (proxy >= 0)
		close(proxy);
	upstream_drop(&u);
	loop_run_deferred();
}

/* What lies in the proxy's end. */
static const char *
asked(int proxy)
{
	static char text[4096];
	ssize_t n = read(proxy, text, sizeof text - 1);

	text[n > 0 ? n : 0] = '\0';
	return text;
}

/* The answer, in one piece and cut in two at each byte. */
static void
via_answers(const char *name, const char *answer, enum upstream_state state, const char *why)
{
	for (size_t cut = 0; cut < strlen(answer); cut++) {
		struct upstream *u = via_through("far.test");
		int proxy = dialled(u);
		bool ok = strcmp(asked(proxy), ASKED "\r\n") == 0;

		ok = ok && write(proxy, answer, cut) == (ssize_t)cut;
		u->peer.watch.readable = true;
		upstream_ready(&u->peer.watch);
		ok = ok && write(proxy, answer + cut, strlen(answer) - cut) == (ssize_t)(strlen(answer) - cut);
		u->peer.watch.readable = true;
		if (u->state == UP_VIA)
			upstream_ready(&u->peer.watch);
		ok = ok && u->state == state && (state != UP_FAILED || (strcmp(u->code, "upstream_proxy") == 0 && strstr(u->why, why) != NULL));
		if (!ok || cut + 1 == strlen(answer))
			test_result(ok, name, "cut at %zu: state %d, %s", cut, u->state, u->why != NULL ? u->why : "");
		over(u, proxy);
		if (!ok)
			return;
	}
}

static void
test_via_answers(void)
{
	set_proxy("proxy.test", NULL);
	via_answers("200 opens the way", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", UP_OPEN, "");
	via_answers("and so does another 2xx behind a 1xx", "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.0 204 x\r\n\r\n", UP_OPEN, "");
	via_answers("407", "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\n\r\n", UP_FAILED, "wants a user and password (407)");
	via_answers("403", "HTTP/1.1 403 No\r\n\r\n", UP_FAILED, "refuses that host or port (403");
	via_answers("503", "HTTP/1.1 503 No\r\n\r\n", UP_FAILED, "does not reach that host (503)");
	via_answers("101", "HTTP/1.1 101 x\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", UP_FAILED, "malformed");
	via_answers("a head that is none", "HTTP/1.1 200 OK\r\nA b\r\n\r\n", UP_FAILED, "malformed");
	via_answers("no HTTP", "SSH-2.0-x", UP_FAILED, "does not speak HTTP");
}

/* The password of a proxy is not shown to the one before it, though the dial to that one was under way. */
static void
test_changed(void)
{
	struct upstream *u;
	int proxy;

	set_proxy("old.test", NULL);
	u = via_through("far.test");
	set_proxy("new.test", "canary");
	proxy = dialled(u);
	test_result(u->state == UP_FAILED && strcmp(u->code, "upstream_proxy") == 0 && via_events == 1 && asked(proxy)[0] == '\0',
	    "a proxy that was replaced meanwhile is asked for nothing", "state %d, %s", u->state, u->why);
	over(u, proxy);
	u = via_through("far.test");
	proxy = dialled(u);
	test_result(strcmp(asked(proxy), ASKED "Proxy-Authorization: Basic canary\r\n\r\n") == 0, "the new one gets its own password",
	    "%s", u->why != NULL ? u->why : "");
	over(u, proxy);
	set_proxy("", NULL);
	u = via_through("far.test");
	upstream_dial(u, NULL, 0);
	test_result(u->state == UP_FAILED && strcmp(u->code, "upstream_proxy") == 0 && via_events == 1, "one that was taken away is not dialled",
	    "state %d", u->state);
	over(u, -1);
}

/* A server that is written as an address is judged by the guard when the connection is made, and when it is taken again. */
static void
test_address(void)
{
	struct cidr ten;
	struct upstream *u, *again;
	int proxy;

	assert(cidr_parse(SLICE("10.0.0.0/8"), &ten));
	set_proxy("proxy.test", NULL);
	u = via_through("10.1.2.3");
	upstream_dial(u, NULL, 0);
	test_result(u->state == UP_FAILED && strcmp(u->code, "address_blocked") == 0, "a private address is not asked for", "state %d", u->state);
	over(u, -1);
	u = via_through("10.1.2.3");
	proxy = dialled(u);
	asked(proxy);
	assert(write(proxy, "HTTP/1.1 200 OK\r\n\r\n", 19) == 19);
	u->peer.watch.readable = true;
	upstream_ready(&u->peer.watch);
	assert(u->state == UP_OPEN);
	upstream_release(u, true);
	u->peer.watch.readable = false;
	again = upstream_take("", NULL, 0);
	test_result(again == NULL, "nor taken from the pool where the entry no longer allows it", "taken");
	again = again != NULL ? again : upstream_take("", &ten, 1);
	test_result(again == u, "it is, where the entry does", "not taken");
	if (again != NULL)
		over(again, proxy);
}

/* What our own fetches are told: a clock that is not set is said to be that, and words outlive the connection. */
static void
test_via_fetch(void)
{
	static const char *const codes[][2] = {{"clock_unset", "clock_unset"}, {"address_blocked", "address_blocked"},
	    {"upstream_tls", "tls"}, {"upstream_proxy", "unreachable"}, {"upstream_unreachable", "unreachable"}};

	set_proxy("proxy.test", NULL);
	for (size_t i = 0; i < COUNT(codes); i++) {
		struct fetch f = {.status = 0};
		struct upstream *u = via_through("far.test");

		f.up = u;
		u->owner = &f;
		snprintf(u->via_why, sizeof u->via_why, "why %s", codes[i][0]);
		upstream_fail(u, codes[i][0], u->via_why);
		fetch_event(u);
		loop_run_deferred();    /* frees it */
		test_result(strcmp(f.error, codes[i][1]) == 0 && strncmp(f.detail, "why ", 4) == 0, codes[i][0], "%s, %s", f.error, f.detail);
	}
}

int
main(void)
{
	assert(secret_init() && loop_init(false));
	test_via_answers();
	test_changed();
	test_address();
	test_via_fetch();
	return test_end();
}
