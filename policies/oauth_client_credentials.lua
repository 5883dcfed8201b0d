--- OAuth 2.0 client credentials: trade an id and a secret for a bearer token, and keep it fresh.
-- RFC 6749 section 4.4 (the grant) and 2.3.1 (client authentication), RFC 7523 section 2.2 (the same with a private
-- key), RFC 8707 (resource), RFC 6750 (the header).
--
-- For: Salesforce, Auth0, Okta, Keycloak, Entra ID and other machine-to-machine APIs.
--   sallyport credential add crm --type oauth_client_credentials --host api.crm.example \
--     token_url=https://login.crm.example/oauth/token client_id=abc client_secret=@secret.txt scopes="read write"
--   sallyport credential add entra --type oauth_client_credentials --host graph.microsoft.com client_id=abc \
--     token_url=https://login.microsoftonline.com/TENANT/oauth2/v2.0/token private_key=@app.pem algorithm=RS256 \
--     x5t=BASE64URL_SHA256_OF_THE_CERTIFICATE scopes=https://graph.microsoft.com/.default
-- Fields: token_url; client_id; client_secret (secret); auth_method, how they are sent: basic (header) or post (body);
--         or in its place private_key, PEM (secret): private_key_jwt, with algorithm, RS256 unless named, key_id, the
--         header's kid, x5t, its x5t#S256 (Entra ID), and assertion_audience, token_url unless named;
--         scopes; audience (Auth0); resource (RFC 8707, may be several); params.NAME for what a server wants besides;
--         token_body, form or json (some servers read JSON alone); ttl, seconds, where the server says none.
-- The agent never reaches token_url with this credential; the answer's refresh_token, which section 4.4.3 says
-- there should not be, is not used.
local ASSERTION_LIFE = 180   -- s: sent at once; the rest is for clocks that differ

local own_params = {
  grant_type = true, client_id = true, client_secret = true, client_assertion = true, client_assertion_type = true,
}

-- RFC 7523 section 3, and the jti that OpenID Connect Core 9 asks for.
local function assertion(cred)
  local now = time.wall()
  return sign.jwt {
    alg = cred.algorithm, key = cred.private_key, header = { kid = cred.key_id, ["x5t#S256"] = cred.x5t },
    claims = {
      iss = cred.client_id, sub = cred.client_id, aud = cred.assertion_audience or cred.token_url,
      iat = now, exp = now + ASSERTION_LIFE, jti = sign.nonce(),
    },
  }
end

-- What SDKs read of an answer beside the token: Salesforce's members, Pipedrive's and Zoho's api_domain, Zoom's api_url.
local MEMBERS = { "scope", "id", "instance_url", "api_instance_url", "issued_at", "token_format", "sfdc_community_url",
  "sfdc_community_id", "api_domain", "api_url" }

return {
  kind   = "type",
  api    = 1,
  name   = "oauth_client_credentials",
  title  = "OAuth 2.0 client credentials",
  pure   = true,   -- apply looks at cred alone: what it sets is kept until something changes
  fields = {
    { name = "token_url", type = "url", required = true, help = "Token endpoint" },
    { name = "client_id", required = true },
    { name = "client_secret", secret = true },
    { name = "auth_method", type = "enum", values = { "basic", "post" }, default = "basic",
      help = "basic: in the Authorization header; post: in the body" },
    { name = "private_key", type = "pem", secret = true,
      help = "In place of client_secret: private_key_jwt (RFC 7523): private_key=@FILE" },
    { name = "algorithm", type = "enum", values = { "RS256", "RS384", "RS512", "ES256", "ES384" }, default = "RS256",
      help = "Of private_key" },
    { name = "key_id", help = "kid of the assertion's header" },
    { name = "x5t", help = "x5t#S256 of the assertion's header: the certificate's SHA-256, base64url (Entra ID)" },
    { name = "assertion_audience", help = "aud of the assertion: token_url unless named" },
    { name = "scopes", type = "list", help = "Scopes, separated by spaces" },
    { name = "audience", help = "Auth0 and others: the API's identifier" },
    { name = "resource", type = "list", help = "RFC 8707: the API's URL; may be several" },
    { name = "params", type = "map", help = "params.NAME=VALUE: a further parameter" },
    { name = "token_body", type = "enum", values = { "form", "json" }, default = "form",
      help = "How the token request's body is written" },
    { name = "answer_members", type = "list",
      help = "Plain members of the token's answer that an SDK in the sandbox gets too; Salesforce's, api_url, … if left out" },
    { name = "ttl", type = "integer", default = 300, min = 1, help = "Lifetime in seconds where the server says none" },
  },

  validate = function(cred)
    if not cred.client_secret == not cred.private_key then
      return nil, "client_secret", cred.private_key and "and private_key are both given: one of them says who the client is"
        or "is missing, and so is private_key: one of them says who the client is"
    end
    local why = cred.private_key and sign.key_problem(cred.algorithm, cred.private_key)
    if why then return nil, "private_key", why end
    for name in pairs(cred.params or {}) do
      if own_params[name] then
        return nil, ("%s is a field of its own, not one of params"):format(name)
      end
    end
    return true
  end,

  plain = function(cred) return cred.answer_members or MEMBERS end,

  -- RFC 6750 2.2 and 2.3: where else a bearer token may stand.
  carriers = { query = { "access_token" } },

  apply = function(req, cred)
    req.headers:set("authorization", "Bearer " .. cred.state.access_token)  -- a secret: `..` keeps it one
  end,

  -- net.token posts, judges the answer by RFC 6749 5.1, and hands secrets over as handles.
  refresh = function(cred, net, deadline)
    local form = { { "grant_type", "client_credentials" } }
    local basic
    if cred.private_key then
      local signed = assertion(cred)
      if not signed then return nil, "bad_key" end
      form[#form + 1] = { "client_id", cred.client_id }  -- RFC 7521 4.2 leaves it out; Entra ID wants it, none minds
      form[#form + 1] = { "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" }
      form[#form + 1] = { "client_assertion", signed }
    elseif cred.auth_method == "post" then
      form[#form + 1] = { "client_id", cred.client_id }
      form[#form + 1] = { "client_secret", cred.client_secret }
    else
      basic = { cred.client_id, cred.client_secret }
    end
    form[#form + 1] = { "scope", cred.scopes }
    form[#form + 1] = { "audience", cred.audience }
    for _, url in ipairs(cred.resource or {}) do form[#form + 1] = { "resource", url } end
    local names = {}
    for name in pairs(cred.params or {}) do names[#names + 1] = name end
    table.sort(names)
    for _, name in ipairs(names) do form[#form + 1] = { name, cred.params[name] } end

    local answer, code, detail = net.token(cred.token_url,
      { basic = basic, form = form, body = cred.token_body, ttl = cred.ttl }, deadline)
    if not answer then return nil, code, detail end
    return { secrets = { access_token = answer.secrets.access_token }, expires_at = answer.expires_at, plain = answer.plain }
  end,

  examples = {
    { cred = { token_url = "https://login.example.com/token", client_id = "id", client_secret = "s",
               state = { access_token = "t1" } },
      req  = { headers = { authorization = "Bearer placeholder" } },
      want = { headers = { authorization = "Bearer t1" } } },
  },
}
