-- The form of a wire case, on a few that run. The runner starts the real program between a scripted client and scripted
-- upstreams, and at the end looks for every secret, token and `canaries` entry in logs, listings, error bodies, process
-- titles and the raw files of the store.
--
--   python3 tests/wire/harness.py build/test/sallyport tests/wire/example.lua [WORD…]
--
-- A file returns a case, a list of cases, or { shared = SETUP, cases = { … } }: then one server serves all cases, and a
-- case with a key of SETUP gets a server of its own. `python3 tests/wire/harness.py --keys` lists every key.
return {
  -- SETUP: the store and the server.
  shared = {
    credentials = {
      { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-example-1" } },   -- looked for everywhere
    },
    domains = { { host = "open.test" } },                -- a host without a credential
    agents = { { name = "a" } },                         -- whose token ${AUTH} and ${TOKEN} are; `a` is there anyway
    servers = { other = { host = "open.test", reply = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother" } },
  },

  cases = {
    -- The plainest: CONNECT to host (api.test unless named), TLS, `send`, and what came of it. Without a `reply` the main
    -- upstream answers with the request as JSON.
    { name = "the credential goes to its host, and the agent's own key does not",
      send = "GET /x HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer mine\r\n\r\n",
      expect = {
        status = 200,                                                        -- of the answer that the client read
        upstream = { requests = 1, header = { authorization = "Bearer canary-example-1" }, head_not = "mine" },
        log = { decision = "allow", credential = "api", status = 200 },      -- one record has all of these
        log_never = { "mine" },
      } },

    -- Not through a tunnel: the bytes go to the proxy port as they stand. ${AUTH} is the agent's Basic.
    { name = "a plain request without a token is challenged", via = "proxy", token = "none",
      send = "GET http://open.test/ HTTP/1.1\r\nHost: open.test\r\n\r\n",
      expect = { status = 407, headers = { ["proxy-authenticate"] = 'Basic realm="sallyport"' }, upstream = "nothing" } },

    -- What is refused never reaches the upstream: not one byte.
    { name = "a host that no rule names is refused inside the tunnel", host = "elsewhere.test",
      send = "GET / HTTP/1.1\r\nHost: elsewhere.test\r\n\r\n",
      expect = { status = 403, error = "host_not_allowed", body_has = "elsewhere.test", upstream = "nothing" } },

    -- A client in steps (text, seconds, bytes one by one, waiting for text or answers), against an upstream in steps.
    -- A list of replies answers one request each.
    { name = "steps on both sides",
      upstream = { reply = {
        { steps = { "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", 0.1, { bytewise = "3\r\ntwo\r\n0\r\n\r\n" } } },
        "HTTP/1.1 204 No Content\r\n\r\n",
      } },
      send = {
        { bytewise = "GET /1 HTTP/1.1\r\nHost: api.test\r\n\r\n", every = 0.001 },
        { answers = 1 },                                                     -- until one answer is whole
        "GET /2 HTTP/1.1\r\nHost: api.test\r\n\r\n",
      },
      expect = { statuses = { 200, 204 }, upstream = { requests = 2, lines = { "GET /1 HTTP/1.1", "GET /2 HTTP/1.1" } } } },

    -- Another upstream is named in `servers`, and asked about by its name.
    { name = "a domain entry reaches its host without a credential", host = "open.test",
      send = "GET / HTTP/1.1\r\nHost: open.test\r\n\r\n",
      expect = { status = 200, body = "other", servers = { other = { requests = 1, no_header = "authorization" } } } },

    -- A key of SETUP in a case: a server of its own.
    { name = "an echo that is switched off", set = { echo = "off" }, host = "echo.sallyport.test",
      send = "GET / HTTP/1.1\r\nHost: echo.sallyport.test\r\n\r\n", expect = { status = 403 } },
  },
}
