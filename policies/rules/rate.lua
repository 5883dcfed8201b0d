--- At most so many requests in a window of time.
--
--   sallyport rule add slowly --type rate requests=60 window=60
--   sallyport rule add orders --type rate --host api.acme.test --method POST requests=10 window=3600 per=credential
--
-- Counted are requests that the bundle allowed and no earlier rule refused; the counters are shared by all workers, and begin
-- anew at each multiple of the window since 1970 (a window of a day begins at 0:00 UTC). One request more is answered 429
-- too_many with Retry-After. The counters are in memory: a restart of the server begins them anew.
return {
  kind = "rule", api = 1, name = "rate", title = "At most so many requests in a window of time",
  fields = {
    { name = "requests", type = "integer", min = 0, required = true, help = "How many go through in a window" },
    { name = "window", type = "integer", min = 1, max = 3456000, default = 60, help = "Seconds" },
    { name = "per", type = "enum", values = { "agent", "host", "credential", "all" }, default = "agent", help = "What has a counter of its own" },
  },
  on_request = function(req, ctx)
    local key = { agent = ctx.agent, host = req.host, credential = ctx.credential or "", all = "*" }
    return limit(ctx.rule.requests, ctx.rule.window, key[ctx.rule.per])
  end,
  examples = {
    { rule = { requests = 2 } },
    { rule = { requests = 2 }, counts = { a = 1 } },
    { rule = { requests = 2 }, counts = { a = 2 }, want = "2 in 1m is the limit" },
    { rule = { requests = 2, per = "host" }, counts = { ["api.example.com"] = 2 }, want = "2 in 1m is the limit" },
    { rule = { requests = 2, per = "host" }, counts = { a = 2 } },
    { rule = { requests = 0, window = 3600, per = "all" }, want = "0 in 1h is the limit" },
  },
}
