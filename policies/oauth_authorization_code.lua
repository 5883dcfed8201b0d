--- OAuth 2.0 authorization code: a person consents once, and the account's tokens are kept fresh from then on.
-- RFC 6749 section 4.1 and 6 (the grants), RFC 7636 (PKCE with S256), RFC 9207 (iss), RFC 8707 (resource),
-- RFC 8628 (the device grant), RFC 7009 (revocation), RFC 7523 (private_key_jwt), RFC 6750 (the header).
--
-- For: Google, GitHub, Slack, Microsoft, Notion, Linear, Atlassian and whatever else asks a person; MCP servers.
--   sallyport credential add drive --type oauth_authorization_code --host www.googleapis.com \
--     authorization_url="https://accounts.google.com/o/oauth2/v2/auth" token_url=https://oauth2.googleapis.com/token \
--     client_id=abc client_secret=@secret.txt scopes=https://www.googleapis.com/auth/drive.readonly \
--     params.access_type=offline params.prompt=consent
--   sallyport connect drive
-- Fields: authorization_url, token_url, revocation_url, device_authorization_url; also_token_url, where clients in a
--         sandbox may go for a token as well (they are answered with a placeholder); issuer, compared with `iss` in the
--         callback, and require_iss where the server promises to send it; client_id; client_secret (secret);
--         auth_method: none, basic, post or private_key_jwt (with private_key, key_id, algorithm); left out, it is basic
--         with a client_secret, private_key_jwt with a private_key, else none; scopes, scope_separator and
--         scope_parameter, where the consent wants another than `scope`; audience and params.NAME, for the consent
--         alone; resource, for the consent and the tokens; redirect_uri, where the provider has another one registered
--         than http://127.0.0.1:7082/callback; pkce=false for a server that refuses its parameters; token_body, form or json; token_member, in which the answer's tokens stand
--         (Slack's user tokens: authed_user); header and prefix, where the API does not read "Authorization: Bearer";
--         ttl, seconds, where the server says none.
-- Tokens come from `sallyport connect NAME`, or pasted: access_token=@FILE refresh_token=@FILE beside the fields of
-- `credential add`, or of `credential set`; a refresh token that is given is exercised at once. A token that came without a refresh token is
-- used until it ends; one without an end either, until the API refuses it.
local reserved = {
  response_type = true, client_id = true, client_secret = true, redirect_uri = true, scope = true, state = true,
  code_challenge = true, code_challenge_method = true, response_mode = true, audience = true, resource = true,
}

-- How the client says who it is; what was left out follows from what there is.
local function client_of(cred)
  local method = cred.auth_method
  if not method then
    method = cred.private_key and "private_key_jwt" or cred.client_secret and "basic" or "none"
  end
  return {
    method = method, id = cred.client_id, secret = cred.client_secret, key = cred.private_key, key_id = cred.key_id,
    algorithm = cred.algorithm, audience = cred.issuer,
  }
end

-- What SDKs read of an answer beside the token: Salesforce's members, Pipedrive's and Zoho's api_domain, Zoom's api_url.
local MEMBERS = { "scope", "id", "instance_url", "api_instance_url", "issued_at", "token_format", "sfdc_community_url",
  "sfdc_community_id", "api_domain", "api_url" }

return {
  kind   = "type",
  api    = 1,
  name   = "oauth_authorization_code",
  title  = "OAuth 2.0: an account that a person connects",
  pure   = true,   -- apply looks at cred alone: what it sets is kept until something changes
  fields = {
    { name = "authorization_url", type = "url", help = "Where the person consents" },
    { name = "token_url", type = "url", required = true, help = "Token endpoint" },
    { name = "also_token_url", type = "url", help = "Another address at which its clients fetch tokens" },
    { name = "revocation_url", type = "url", help = "RFC 7009: where `disconnect` ends the grant" },
    { name = "device_authorization_url", type = "url", help = "RFC 8628: for `connect --device`" },
    { name = "issuer", help = "The server's issuer, compared with iss in the callback (RFC 9207)" },
    { name = "require_iss", type = "boolean", default = false, help = "Refuse a callback without iss" },
    { name = "client_id", required = true },
    { name = "client_secret", secret = true },
    { name = "auth_method", type = "enum", values = { "none", "basic", "post", "private_key_jwt" },
      help = "How the client says who it is; follows from the secrets where left out" },
    { name = "private_key", type = "pem", secret = true, help = "For private_key_jwt" },
    { name = "key_id", help = "kid of the private key" },
    { name = "algorithm", type = "enum", values = { "RS256", "RS384", "RS512", "ES256", "ES384" }, default = "RS256",
      help = "What the private key signs with" },
    { name = "scopes", type = "list", help = "Scopes, separated by spaces" },
    { name = "scope_separator", default = " ", help = "Between scopes in the consent's address" },
    { name = "scope_parameter", default = "scope", help = "What the consent's address calls them; Slack's user_scope" },
    { name = "audience", help = "Atlassian, Auth0: the API's identifier" },
    { name = "resource", type = "list", help = "RFC 8707: the API's URL; may be several" },
    { name = "params", type = "map", help = "params.NAME=VALUE: a further parameter of the consent's address" },
    { name = "pkce", type = "boolean", default = true, help = "false for a server that refuses code_challenge (RFC 7636)" },
    { name = "redirect_uri", help = "As registered; http://127.0.0.1:7082/callback where left out" },
    { name = "token_body", type = "enum", values = { "form", "json" }, default = "form",
      help = "How token requests' bodies are written" },
    { name = "token_member", help = "Dotted member of the answer in which the tokens stand; Slack's authed_user" },
    { name = "header", default = "authorization", header = true, help = "Header that the API reads" },
    { name = "prefix", default = "Bearer ", help = "What stands before the token" },
    { name = "answer_members", type = "list",
      help = "Plain members of the token's answer that an SDK in the sandbox gets too; Salesforce's, api_url, … if left out" },
    { name = "ttl", type = "integer", default = 3600, min = 1,
      help = "Lifetime in seconds of a token that can be renewed, where the server says none" },
  },
  connect = client_of,

  validate = function(cred)
    for name in pairs(cred.params or {}) do
      if reserved[name] then return nil, ("%s is a field of its own, or not ours to set: not one of params"):format(name) end
    end
    if cred.redirect_uri and not cred.redirect_uri:find("^%a[%w+.-]*:[^#%s]+$") then
      return nil, "redirect_uri", "is an address without a #fragment"
    end
    local scope = cred.scope_parameter or "scope"
    if not scope:find("^[%l_]+$") or scope ~= "scope" and reserved[scope] then
      return nil, "scope_parameter", "is no name for scopes"
    end
    if cred.token_member and not cred.token_member:find("^[%w_]+[%w_.]*$") then
      return nil, "token_member", "is a name, or names with dots between"
    end
    local method = client_of(cred).method
    if (method == "basic" or method == "post") and not cred.client_secret then
      return nil, "client_secret", "is missing: auth_method=" .. method .. " sends it"
    end
    if method == "private_key_jwt" and not cred.private_key then
      return nil, "private_key", "is missing: auth_method=private_key_jwt signs with it"
    end
    local problem = cred.private_key and sign.key_problem(cred.algorithm, cred.private_key)
    if problem then return nil, "private_key", problem end
    return true
  end,

  strip = function(cred) return { headers = { cred.header } } end,

  plain = function(cred) return cred.answer_members or MEMBERS end,

  -- RFC 6750 2.2 and 2.3: where else a bearer token may stand.
  carriers = { query = { "access_token" } },

  apply = function(req, cred)
    req.headers:set(cred.header, cred.prefix .. cred.state.access_token)
  end,

  stand_in = { url = function(cred) return { cred.token_url, cred.also_token_url } end },

  -- cred.grant: what `connect` has in hand (a code, a device code). Else it is the refresh token's turn.
  refresh = function(cred, net, deadline)
    local state, form = cred.state or {}, {}
    if cred.grant then
      table.move(cred.grant, 1, #cred.grant, 1, form)
    elseif state.refresh_token then
      form = { { "grant_type", "refresh_token" }, { "refresh_token", state.refresh_token } }
    else
      return nil, state.access_token and "grant_ended" or "not_connected"
    end
    for _, url in ipairs(cred.resource or {}) do form[#form + 1] = { "resource", url } end
    return net.token(cred.token_url, {
      client = client_of(cred), form = form, body = cred.token_body, ttl = cred.ttl,
      -- A refresh that brings no new refresh token leaves the old one in force (RFC 6749 section 6).
      lasting = true, renewable = not cred.grant,
      -- Slack puts a user's first tokens beside the bot's, and renewed ones at the top.
      within = cred.token_member, or_top = not cred.grant,
      token_types = { "bearer", "bot", "user" },      -- Slack's answers name whose token it is
    }, deadline)
  end,

  examples = {
    { cred = { token_url = "https://login.example.com/token", client_id = "id", state = { access_token = "t1" } },
      req  = { headers = { authorization = "Bearer placeholder" } },
      want = { headers = { authorization = "Bearer t1" } } },
    { cred = { token_url = "https://login.example.com/token", client_id = "id", header = "x-access-token", prefix = "",
               state = { access_token = "t1" } },
      req  = { headers = { authorization = "Bearer placeholder", ["x-access-token"] = "placeholder" } },
      want = { headers = { authorization = false, ["x-access-token"] = "t1" } } },
  },
}
