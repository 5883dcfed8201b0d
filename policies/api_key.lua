--- An API key in a header of the API's choosing.
--
-- For: Anthropic (x-api-key), Google AI (x-goog-api-key), GitLab (PRIVATE-TOKEN), Datadog (DD-API-KEY).
--   sallyport credential add anthropic --type api_key --host api.anthropic.com key=- env=ANTHROPIC_API_KEY
--   sallyport credential add dd --type api_key --host api.datadoghq.com header=DD-API-KEY key=@key \
--     headers.DD-APPLICATION-KEY=@app-key
-- Fields: header, the header the API reads; prefix, text before the key in it ("Token ", with its space); key (secret).
-- The header is taken off what the agent sent, in every spelling that a server could take for it.
return {
  kind   = "type",
  api    = 1,
  name   = "api_key",
  title  = "API key in a header",
  pure   = true,   -- apply looks at cred alone: what it sets is kept until something changes
  fields = {
    { name = "header", default = "x-api-key", header = true, help = "Header the API reads" },
    { name = "prefix", default = "", help = "Text before the key in that header" },
    { name = "key", secret = true, required = true, help = "The key" },
  },

  strip = function(cred) return { headers = { cred.header } } end,

  apply = function(req, cred) req.headers:set(cred.header, cred.prefix .. cred.key) end,

  examples = {
    { cred = { key = "k1" }, req = { headers = { ["x-api-key"] = "placeholder" } },
      want = { headers = { ["x-api-key"] = "k1" } } },
    { cred = { key = "k1", header = "DD-API-KEY", prefix = "v1 " }, req = { headers = { ["dd-api-key"] = "x" } },
      want = { headers = { ["dd-api-key"] = "v1 k1" } } },
    { cred = { key = "k1" }, req = { headers = { authorization = "Bearer placeholder" } },
      want = { headers = { ["x-api-key"] = "k1" } } },
  },
}
