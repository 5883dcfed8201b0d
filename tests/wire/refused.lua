--- An upstream's 401 to what we attached is marked: in the answer, in the record, and for the operator; nobody is to sign in
-- from the sandbox.
local function get(host, fields) return "GET /x HTTP/1.1\r\nHost: " .. host .. "\r\n" .. (fields or "") .. "\r\n" end
local no = { reply = { status = 401, headers = { ["WWW-Authenticate"] = "Bearer", ["X-Sallyport-Note"] = "forged" }, body = "no" } }
local marked = "credential_refused; credential=api"
return {
  shared = {
    hosts = { "api.test", "free.test", "s3.test", "rows.test", "query.test" },
    credentials = {
      { name = "api", type = "bearer", host = "api.test", secrets = { token = "canary-refused-1" } },
      { name = "s3", type = "aws_sigv4", host = "s3.test", fields = { access_key_id = "AKIAEXAMPLE", region = "eu-west-1", service = "s3" }, secrets = { secret_access_key = "canary-refused-s3" } },
      { name = "rows", type = "substitute", host = "rows.test", substitute = "value:path=/bot{}/**:__PLACED__", secrets = { value = "canary-refused-row" } },
      { name = "query", type = "body_parameter", host = "query.test", fields = { name = "key", ["in"] = "query" }, secrets = { value = "canary-refused-query" } },
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
    { name = "a request that we signed", host = "s3.test", send = get("s3.test"), upstream = no, expect = { status = 401, headers = { ["x-sallyport-note"] = "credential_refused; credential=s3" } } },
    { name = "a key in the query", host = "query.test", send = get("query.test"), upstream = no, expect = { status = 401, headers = { ["x-sallyport-note"] = "credential_refused; credential=query" } } },
    { name = "a placeholder that was replaced", host = "rows.test", send = "GET /bot__PLACED__/x HTTP/1.1\r\nHost: rows.test\r\n\r\n", upstream = no,
      expect = { status = 401, headers = { ["x-sallyport-note"] = "credential_refused; credential=rows" } } },
    { name = "no placeholder, so nothing of ours", host = "rows.test", send = get("rows.test"), upstream = no, expect = { status = 401, no_headers = { "x-sallyport-note" } } },
    { name = "other refusals are the server's own", send = get("api.test"), upstream = { reply = { status = 403, body = "no" } },
      expect = { status = 403, no_headers = { "x-sallyport-note" } } },
    { name = "one that changed since starts anew", send = { get("api.test"), { answers = 1 }, 0.3, { cli = { "credential", "set", "api", "--method", "GET" } } }, upstream = no,
      expect = { status = 401, cli = { ["credential show api"] = "methods" } } },
    { name = "none is shown where none was", send = get("free.test"), host = "free.test", expect = { status = 200, cli = { ["credential show fine"] = "enabled" } } },
  },
}
