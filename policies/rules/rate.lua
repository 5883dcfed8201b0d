--- At most so many requests, or bytes, in a window of time.
--
--   sallyport rule add slowly --type rate requests=60 window=60
--   sallyport rule add orders --type rate --host api.acme.test --method POST requests=10 window=3600 per=credential
--   sallyport rule add traffic --type rate bytes=100000000 window=86400 kept=true
--
-- Counted are requests that the bundle allowed and no earlier rule refused; the counters are shared by all workers, and begin
-- anew at each multiple of the window since 1970 (a window of a day begins at 0:00 UTC). One request more is answered 429
-- too_many with Retry-After. Bytes are those of bodies, both ways, of requests that have
-- ended: a request goes on that begins before the limit is reached. The counters are in memory: a restart of the server begins them
-- anew, unless kept=true (then a kill loses the last second).
return {
  kind = "rule", api = 1, name = "rate", title = "At most so many requests or bytes in a window of time", answer = { when = "bytes" },
  fields = {
    { name = "requests", type = "integer", min = 0, help = "How many go through in a window" },
    { name = "bytes", type = "integer", min = 1, help = "Of bodies, both ways" },
    { name = "window", type = "integer", min = 1, max = 3456000, default = 60, help = "Seconds" },
    { name = "per", type = "enum", values = { "agent", "host", "credential", "all" }, default = "agent", help = "What has a counter of its own" },
    { name = "kept", type = "boolean", default = false, help = "Counters survive a restart" },
  },
  validate = function(rule)
    if not rule.requests and not rule.bytes then return nil, "requests", "is missing, and so is bytes: one of them is needed" end
    return true
  end,
  counters = function(rule)
    local out = {}
    if rule.requests then out[1] = { label = "requests", key = "{}", per = rule.per, window = rule.window, limit = rule.requests, kept = rule.kept } end
    if rule.bytes then
      out[#out + 1] = { label = "bytes", key = "{} bytes", per = rule.per, window = rule.window, limit = rule.bytes, unit = "bytes", kept = rule.kept }
    end
    return out
  end,
  on_request = function(req, ctx)
    local rule = ctx.rule
    local keys = { agent = ctx.agent, host = req.host, credential = ctx.credential or "", all = "*" }
    local key = keys[rule.per]
    if rule.bytes then
      ctx.memo.key = key .. " bytes"
      if ctx.count(ctx.memo.key, rule.window, 0, rule.kept) >= rule.bytes then
        return limit(rule.bytes, rule.window, ctx.memo.key, { unit = "bytes", kept = rule.kept })
      end
    end
    if rule.requests then return limit(rule.requests, rule.window, key, { kept = rule.kept }) end
  end,
  on_response = function(res, ctx)
    ctx.count(ctx.memo.key, ctx.rule.window, res.up + res.down, ctx.rule.kept)
  end,
  examples = {
    { rule = { requests = 2 } },
    { rule = { requests = 2 }, counts = { a = 1 } },
    { rule = { requests = 2 }, counts = { a = 2 }, want = "2 in 1m is the limit" },
    { rule = { requests = 2, per = "host" }, counts = { ["api.example.com"] = 2 }, want = "2 in 1m is the limit" },
    { rule = { requests = 2, per = "host" }, counts = { a = 2 } },
    { rule = { bytes = 1000 }, counts = { ["a bytes"] = 999 } },
    { rule = { bytes = 1000 }, counts = { ["a bytes"] = 1000 }, want = "1000 bytes in 1m is the limit" },
    { rule = { bytes = 1000, requests = 1 }, counts = { a = 1 }, want = "1 in 1m is the limit" },
    { rule = { requests = 0, window = 3600, per = "all" }, want = "0 in 1h is the limit" },
  },
}
