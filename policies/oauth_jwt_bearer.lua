--- OAuth 2.0 JWT bearer grant: an assertion signed with a private key, traded for a bearer token.
-- RFC 7523 section 2.1 (the grant) and section 3 (what is in the assertion), RFC 7518 (the algorithms).
--
-- For: Salesforce, DocuSign, Adobe, Box and others where an integration signs in with a key pair.
--   sallyport credential add sf --type oauth_jwt_bearer --host mycompany.my.salesforce.com private_key=@sf.pem \
--     issuer=CONSUMER_KEY subject=robot@example.com audience=https://login.salesforce.com \
--     token_url=https://login.salesforce.com/services/oauth2/token
--   sallyport credential add sign --type oauth_jwt_bearer --host demo.docusign.net private_key=@docusign.pem \
--     issuer=INTEGRATION_KEY subject=USER_ID audience=account-d.docusign.com \
--     token_url=https://account-d.docusign.com/oauth/token scopes="signature impersonation" scopes_in=claim lifetime=3600
-- Fields: private_key, PEM: PKCS#8, PKCS#1 or SEC1 (secret); algorithm, RS256 unless named; key_id, the header's kid;
--         issuer; subject, the issuer unless named; audience, token_url unless named; token_url; scopes, and
--         scopes_in, where they go: form (RFC 7523) or claim (DocuSign, Google); claims.NAME for further claims
--         (json:VALUE where it is no text: claims.level=json:3); lifetime of the assertion in seconds; client_id and
--         client_secret (secret) where the server wants the client known besides, with auth_method, how they are sent;
--         params.NAME for further parameters; ttl, seconds, where the server says none (Salesforce);
--         answer_members, plain members of the answer that an SDK in the sandbox gets too.
local GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
local own_claims = { iss = "issuer", sub = "subject", aud = "audience", exp = "lifetime", iat = "lifetime", jti = "lifetime" }
local own_params = { grant_type = true, assertion = true, client_id = true, client_secret = true, scope = true }

-- text, or what stands behind "json:". nil: malformed.
local function value_of(text)
  local source = text:match("^json:(.*)$")
  if not source then return text end
  return (json.decode(source))
end

local function sorted(map)
  local names = {}
  for name in pairs(map or {}) do names[#names + 1] = name end
  table.sort(names)
  return names
end

-- What SDKs read of an answer beside the token: Salesforce's members, Pipedrive's and Zoho's api_domain, Zoom's api_url.
local MEMBERS = { "scope", "id", "instance_url", "api_instance_url", "issued_at", "token_format", "sfdc_community_url",
  "sfdc_community_id", "api_domain", "api_url" }

return {
  kind   = "type",
  api    = 1,
  name   = "oauth_jwt_bearer",
  title  = "OAuth 2.0 JWT bearer grant",
  pure   = true,   -- apply looks at cred alone: what it sets is kept until something changes
  fields = {
    { name = "private_key", type = "pem", required = true, secret = true, help = "PEM private key: private_key=@FILE" },
    { name = "algorithm", type = "enum", values = { "RS256", "RS384", "RS512", "ES256", "ES384" }, default = "RS256" },
    { name = "key_id", help = "kid of the assertion's header" },
    { name = "issuer", required = true, help = "iss: the client id, as a rule" },
    { name = "subject", help = "sub: whom it acts for; the issuer unless named" },
    { name = "audience", help = "aud: token_url unless named" },
    { name = "token_url", type = "url", required = true, help = "Token endpoint" },
    { name = "scopes", type = "list", help = "Scopes, separated by spaces" },
    { name = "scopes_in", type = "enum", values = { "form", "claim" }, default = "form",
      help = "form: a parameter; claim: in the assertion" },
    { name = "claims", type = "map", help = "claims.NAME=VALUE: a further claim; json:VALUE where it is no text" },
    { name = "lifetime", type = "integer", default = 180, min = 10, max = 3600, help = "Of the assertion, in seconds" },
    { name = "client_id", help = "Where the server wants it beside the assertion" },
    { name = "client_secret", secret = true },
    { name = "auth_method", type = "enum", values = { "basic", "post" }, default = "basic",
      help = "How client_id and client_secret are sent: basic in the Authorization header, post in the body" },
    { name = "params", type = "map", help = "params.NAME=VALUE: a further parameter" },
    { name = "answer_members", type = "list",
      help = "Plain members of the token's answer that an SDK in the sandbox gets too; Salesforce's, api_url, … if left out" },
    { name = "ttl", type = "integer", default = 1800, min = 1, help = "Lifetime in seconds where the server says none" },
  },

  validate = function(cred)
    local why = sign.key_problem(cred.algorithm, cred.private_key)
    if why then return nil, "private_key", why end
    for _, name in ipairs(sorted(cred.claims)) do
      if own_claims[name] then
        return nil, "claims", ("has '%s', which the field %s sets"):format(name, own_claims[name])
      end
      if value_of(cred.claims[name]) == nil then return nil, "claims", ("has a '%s' whose json: is not JSON"):format(name) end
    end
    for _, name in ipairs(sorted(cred.params)) do
      if own_params[name] then return nil, "params", ("has '%s', which another field sets"):format(name) end
    end
    if cred.client_secret and not cred.client_id then return nil, "client_id", "is missing: client_secret is its password" end
    return true
  end,

  plain = function(cred) return cred.answer_members or MEMBERS end,

  -- RFC 6750 2.2 and 2.3: where else a bearer token may stand.
  carriers = { query = { "access_token" } },

  apply = function(req, cred)
    req.headers:set("authorization", "Bearer " .. cred.state.access_token)
  end,

  refresh = function(cred, net, deadline)
    local now = time.wall()
    local scope = #(cred.scopes or {}) > 0 and table.concat(cred.scopes, " ") or nil
    local in_claim = cred.scopes_in == "claim"
    local claims = {
      iss = cred.issuer, sub = cred.subject or cred.issuer, aud = cred.audience or cred.token_url,
      iat = now, exp = now + cred.lifetime, jti = sign.nonce(), scope = in_claim and scope or nil,
    }
    for name, text in pairs(cred.claims or {}) do claims[name] = value_of(text) end
    local assertion =
      sign.jwt { alg = cred.algorithm, key = cred.private_key, header = { kid = cred.key_id }, claims = claims }
    if not assertion then return nil, "bad_key" end

    local form, basic = { { "grant_type", GRANT }, { "assertion", assertion } }, nil
    if cred.client_secret and cred.auth_method == "basic" then
      basic = { cred.client_id, cred.client_secret }
    else
      form[#form + 1] = { "client_id", cred.client_id }
      form[#form + 1] = { "client_secret", cred.client_secret }
    end
    form[#form + 1] = { "scope", not in_claim and scope or nil }
    for _, name in ipairs(sorted(cred.params)) do form[#form + 1] = { name, cred.params[name] } end
    local answer, code, detail = net.token(cred.token_url, { basic = basic, form = form, ttl = cred.ttl }, deadline)
    if not answer then return nil, code, detail end
    return { secrets = { access_token = answer.secrets.access_token }, expires_at = answer.expires_at, plain = answer.plain }
  end,

  examples = {
    { cred = { private_key = "k", issuer = "i", token_url = "https://login.example.com/token",
               state = { access_token = "t1" } },
      req  = { headers = { authorization = "Bearer placeholder" } },
      want = { headers = { authorization = "Bearer t1" } } },
  },
}
