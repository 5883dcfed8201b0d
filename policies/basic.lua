--- A user name and a password in the Authorization header (RFC 7617).
--
-- For: git over HTTPS, Jira and Confluence (e-mail address and API token), older APIs. Container registries: type `registry`, which
-- knows more of them; of a registry that names itself as its token endpoint the bearer is sealed here, too, or it could not be used.
--   sallyport credential add gitlab-git --type basic --host gitlab.com username=oauth2 password=@token.txt
-- Fields: username (plain, may be empty, holds no ":": it would end there); password (secret, may be empty); secret_username (secret, in the
-- place of username: of APIs whose key is the user name, with an empty password, as Stripe's).
return {
  kind   = "type",
  api    = 1,
  name   = "basic",
  title  = "User name and password",
  pure   = true,   -- apply looks at cred alone: what it sets is kept until something changes
  fields = {
    { name = "username", default = "", help = "User name; not a secret, it may be shown" },
    { name = "password", secret = true, required = true, empty = true, help = "Password; may be empty" },
    { name = "secret_username", secret = true, help = "The user name, where it is the key itself; username stays empty then" },
  },

  -- "Token Authentication Specification" of the CNCF's Distribution project.
  seal = { { method = "GET", path = "/**", query = { scope = true }, challenge = "/v2/", what = "a registry's bearer",
    members = { { "token", "access_token" } }, optional = { "refresh_token" }, ttl = "expires_in", expired = 401, default = true } },

  validate = function(cred)
    -- RFC 7617 section 2: the first colon ends the user name.
    if cred.username:find(":", 1, true) then return nil, "username", "has a ':' in it, where the user name would end" end
    if cred.secret_username and cred.username ~= "" then return nil, "username", "is there twice: secret_username stands in its place" end
    return true
  end,

  apply = function(req, cred)
    req.headers:set("authorization", "Basic " .. secret.base64((cred.secret_username or cred.username) .. ":" .. cred.password))
  end,

  examples = {
    { cred = { username = "Aladdin", password = "open sesame" },  -- RFC 7617 section 2
      req  = { headers = { authorization = "Basic cGxhY2U6aG9sZGVy" } },
      want = { headers = { authorization = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==" } } },
    { cred = { username = "user", password = "" }, req = {},
      want = { headers = { authorization = "Basic dXNlcjo=" } } },
    { cred = { password = "key" }, req = {},
      want = { headers = { authorization = "Basic OmtleQ==" } } },
    { cred = { secret_username = "key", password = "" }, req = {},
      want = { headers = { authorization = "Basic a2V5Og==" } } },
  },
}
