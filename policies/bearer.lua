--- A bearer token in the Authorization header (RFC 6750 section 2.1).
--
-- For: GitHub's API, GitLab, OpenAI, Slack, npm, Stripe and most APIs whose key or token does not expire by itself.
--   sallyport credential add github --type bearer --host api.github.com token=env:GH_TOKEN env=GH_TOKEN
-- Fields: token (secret).
-- What the agent itself sends as Authorization never reaches the upstream. Where an API wants another header or
-- another word than "Bearer" before the token, use `api_key`.
return {
  kind   = "type",
  api    = 1,
  name   = "bearer",
  title  = "Bearer token",
  pure   = true,   -- apply looks at cred alone: what it sets is kept until something changes
  fields = {
    { name = "token", secret = true, required = true, help = "The token, without the word Bearer" },
  },

  -- A client with a file of its own for such tokens is kubectl.
  stand_in = { format = "kubeconfig" },

  -- RFC 6750 2.2 and 2.3: where else a bearer token may stand.
  carriers = { query = { "access_token" } },

  apply = function(req, cred)
    req.headers:set("authorization", "Bearer " .. cred.token)
  end,

  examples = {
    { cred = { token = "t1" }, req = { headers = { authorization = "Bearer placeholder" } },
      want = { headers = { authorization = "Bearer t1" } } },
    { cred = { token = "t1" }, req = {},
      want = { headers = { authorization = "Bearer t1" } } },
  },
}
