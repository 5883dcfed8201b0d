--- Google Cloud: a service account's key, traded for access tokens.
-- RFC 7523 section 2.1 as Google speaks it (developers.google.com/identity/protocols/oauth2/service-account):
-- an assertion signed with the key (RS256) goes to the key's own token endpoint; a Bearer token of an hour comes back.
--
-- For: Google Cloud and Workspace APIs (*.googleapis.com unless --host says else).
--   sallyport credential add gcp --type gcp_access_token key=@service-account.json
--   sallyport credential add drive --type gcp_access_token --host www.googleapis.com key=@service-account.json \
--     scopes=https://www.googleapis.com/auth/drive.readonly subject=person@example.com
-- Fields: key, the JSON file of the service account (secret; taken apart when it is saved: the private key is sealed,
--         client_email and token_uri can be read); scopes, cloud-platform unless named; subject, a person of the
--         Workspace domain whom the account may act for (domain-wide delegation).
-- Calls that make further keys, tokens or signatures are refused unless the credential says mint=allow.
local GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
local LIFETIME = 3600   -- s: the longest that Google takes

local function mint(path, what, method, host)
  return { method = method or "POST", host = host, path = path, what = what }
end

local ACCOUNT, ANY = "/*/projects/*/serviceAccounts/*", "*.googleapis.com"

-- NAME@PROJECT.iam.gserviceaccount.com, or PROJECT@appspot.gserviceaccount.com: libraries name the project in calls.
local function project_of(email)
  return email:match("@([%l%d-]+)%.iam%.gserviceaccount%.com$") or email:match("^([%l%d-]+)@appspot%.gserviceaccount%.com$")
    or "sandbox"
end

return {
  kind   = "type",
  api    = 1,
  name   = "gcp_access_token",
  title  = "Google service account: access tokens",
  hosts  = { "*.googleapis.com" },
  fields = {
    { name = "key", type = "document", required = true, help = "The service account's JSON key file: key=@FILE",
      split = { type = {}, client_email = {}, token_uri = { url = true }, private_key = { secret = true },
                private_key_id = { optional = true } } },
    { name = "scopes", type = "list", default = { "https://www.googleapis.com/auth/cloud-platform" },
      help = "Scopes, separated by spaces" },
    { name = "subject", help = "Person to act for (domain-wide delegation)" },
  },

  -- An API is reached by several names (iam.googleapis.com, content-iam.…, iam.mtls.…, those of a region), so that paths
  -- count on every host. `/v1` and `/v1beta1` are one: "*".
  mint = {
    mint(ACCOUNT .. ":generateAccessToken", "an access token of a service account"),
    mint(ACCOUNT .. ":generateIdToken", "an ID token of a service account"),
    mint(ACCOUNT .. ":signJwt", "a JWT signed as a service account"),
    mint(ACCOUNT .. ":signBlob", "a signature of a service account"),
    mint(ACCOUNT .. "/keys", "a key of a service account"),
    mint(ACCOUNT .. "/keys:upload", "a key of a service account"),
    mint("/storage/v1/projects/*/hmacKeys", "an HMAC key for Cloud Storage"),
    mint("/*/projects/*/locations/*/keys", "an API key"),
    mint("/*/projects/*/locations/*/keys/*/keyString", "an API key in clear", "GET"),
    -- A batch holds calls like these, each with a path of its own.
    { path = "/batch/**", body = { "serviceAccounts", "hmacKeys", "keyString" }, what = "a key or a token, in a batch" },
    mint("/batch/**", "a batch, which may make API keys", nil, "apikeys.googleapis.com"),
    mint("/batch/**", "a batch, which may make API keys", nil, "content-apikeys.googleapis.com"),
    mint("/batch/**", "a batch, which may make API keys", nil, "apikeys.mtls.googleapis.com"),
    { host = "storage.googleapis.com", path = "/batch/**", body = { "base64" }, what = "nobody knows what, in a batch" },
    { host = "www.googleapis.com", path = "/batch/**", body = { "base64" }, what = "nobody knows what, in a batch" },
    mint("/v1/token", "an exchanged token", nil, ANY),
    mint("/v1/oauthtoken", "an exchanged token", nil, ANY),
    mint("/token", "a token", nil, ANY),
    mint("/oauth2/*/token", "a token", nil, ANY),
  },

  -- Other ways in which Google takes a key or headers: the sandbox's own never ride beside ours, and no query makes
  -- another method of a GET.
  strip    = { query = { "$httpHeaders", "$httpMethod", "$req" } },
  carriers = { query = { "key", "access_token", "oauth_token" } },

  validate = function(cred)
    if cred.key.type ~= "service_account" then
      return nil, "key", ("is a file of the type '%s', not the key of a service_account"):format(cred.key.type:sub(1, 40))
    end
    local why = sign.key_problem("RS256", cred.key.private_key)
    if why then return nil, "key", "has a private_key that " .. why end
    return true
  end,

  apply = function(req, cred)
    req.headers:set("authorization", "Bearer " .. cred.state.access_token)
  end,

  -- For Google's libraries (GOOGLE_APPLICATION_CREDENTIALS): a key file with a key that is worth nothing.
  stand_in = {
    keys = true,
    -- Older libraries go to Google's server whatever the file says (gtoken).
    url = function(cred) return { cred.key.token_uri, "https://oauth2.googleapis.com/token" } end,
    file = function(cred, parts)
      return json.encode({
        type = "service_account", project_id = project_of(cred.key.client_email), private_key_id = "sallyport", private_key = parts.private_key,
        client_email = cred.key.client_email, client_id = "0", token_uri = cred.key.token_uri,
        auth_uri = "https://accounts.google.com/o/oauth2/auth", universe_domain = "googleapis.com",
      }, { indent = 2 }) .. "\n"
    end,
  },

  refresh = function(cred, net, deadline)
    local now = time.wall()
    local assertion = sign.jwt {
      alg = "RS256", key = cred.key.private_key, header = { kid = cred.key.private_key_id },
      claims = {
        iss = cred.key.client_email, sub = cred.subject, aud = cred.key.token_uri, iat = now, exp = now + LIFETIME,
        scope = table.concat(cred.scopes, " "),
      },
    }
    if not assertion then return nil, "bad_key" end
    local answer, code, detail = net.token(cred.key.token_uri,
      { form = { { "grant_type", GRANT }, { "assertion", assertion } }, ttl = LIFETIME }, deadline)
    if not answer then return nil, code, detail end
    return { secrets = { access_token = answer.secrets.access_token }, expires_at = answer.expires_at }
  end,

  examples = {
    { cred = { key = { type = "service_account", client_email = "a@p.iam.gserviceaccount.com",
                       token_uri = "https://oauth2.googleapis.com/token", private_key = "k" },
               state = { access_token = "t1" } },
      req  = { url = "https://storage.googleapis.com/storage/v1/b?key=mine&a=1&%24httpHeaders=x", headers = { authorization = "Bearer placeholder",
               ["x-goog-api-key"] = "mine" } },
      want = { url = "https://storage.googleapis.com/storage/v1/b?a=1", headers = { authorization = "Bearer t1", ["x-goog-api-key"] = false } } },
  },
}
