--- An upstream's 401 to what we attached is marked: in the answer, in the record, and for the operator; nobody is to sign in
-- from the sandbox.
local function get(host, fields) return "GET /x HTTP/1.1\r\nHost: " .. host .. "\r\n" .. (fields or "") .. "\r\n" end
local no = { reply = { status = 401, headers = { ["WWW-Authenticate"] = "Bearer", ["X-Sallyport-Note"] = "forged" }, body = "no" } }
local marked = "credential_refused; credential=api"
return {
  shared = {
    hosts = { "api.test", "free.test" },
    credentials = {
      { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-refused-1" } },
      { name = "fine", type = "bearer", host = "fine.test", secrets = { token = "canary-refused-2" } },
    },
    domains = { { host = "free.test" } },
  },
  cases = {
    { name = "what we attached", send = { get("api.test"), { answers = 1 }, 0.3 }, upstream = no,
      expect = { status = 401, body = "no", headers = { ["x-sallyport-note"] = marked, ["www-authenticate"] = "Bearer" }, no_headers = "x-sallyport-error", closed = false,
        log = { status = 401, credential = "api", note = "credential_refused" }, cli = { ["credential show api"] = "api.test answered 401 to it", ["credential show api --json"] = '"refused"', ["log"] = "credential_refused" } } },
    { name = "on the proxy port, in absolute form", via = "proxy", send = "GET https://api.test/ HTTP/1.1\r\nHost: api.test\r\n${AUTH}\r\n", upstream = no,
      expect = { status = 401, headers = { ["x-sallyport-note"] = marked } } },
    { name = "a 401 to a request without a credential is the server's own", host = "free.test", send = get("free.test"), upstream = no,
      expect = { status = 401, no_headers = { "x-sallyport-note" }, log = { host = "free.test", status = 401 } } },
    { name = "other refusals are the server's own", send = get("api.test"), upstream = { reply = { status = 403, body = "no" } },
      expect = { status = 403, no_headers = { "x-sallyport-note" } } },
    { name = "one that changed since starts anew", send = { get("api.test"), { answers = 1 }, 0.3, { cli = { "credential", "set", "api", "--method", "GET" } } }, upstream = no,
      expect = { status = 401, cli = { ["credential show api"] = "methods" } } },
    { name = "none is shown where none was", send = get("free.test"), host = "free.test", expect = { status = 200, cli = { ["credential show fine"] = "enabled" } } },
  },
}
