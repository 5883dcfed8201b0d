--- Google Identity-Aware Proxy: a service account's key, as the token that IAP asks for.
-- cloud.google.com/iap/docs/authentication-howto. What the audience is decides how:
--   a client id (….apps.googleusercontent.com): an assertion (RFC 7523, RS256) is exchanged for an ID token
--   a URL (https://app.example.com/*): a JWT signed here with the account's key, that audience in it; nobody is asked
--
-- For: applications behind IAP: Cloud Run, App Engine, load balancers.
--   sallyport credential add desk --type gcp_iap --host desk.example.com key=@service-account.json \
--     audience=1234-abc.apps.googleusercontent.com
--   sallyport credential add shop --type gcp_iap --host shop.example.com key=@service-account.json \
--     "audience=https://shop.example.com/*" header=proxy-authorization headers.authorization=@app-token.txt
-- Fields: key, the JSON file of the service account (secret; taken apart when it is saved); audience, the OAuth client
--         id of IAP, or the application's URL; header, authorization or proxy-authorization: with the second, IAP
--         leaves Authorization to the application behind it, which headers.authorization fills.
local GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
local LIFETIME = 3600   -- s: Google takes no longer one, and its ID tokens live as long

local function of_key(cred, claims, now)
  claims.iss, claims.iat, claims.exp = cred.key.client_email, now, now + LIFETIME
  return sign.jwt { alg = "RS256", key = cred.key.private_key, header = { kid = cred.key.private_key_id }, claims = claims }
end

-- NAME@PROJECT.iam.gserviceaccount.com, or PROJECT@appspot.gserviceaccount.com: libraries name the project in calls.
local function project_of(email)
  return email:match("@([%l%d-]+)%.iam%.gserviceaccount%.com$") or email:match("^([%l%d-]+)@appspot%.gserviceaccount%.com$")
    or "sandbox"
end

return {
  kind   = "type",
  api    = 1,
  name   = "gcp_iap",
  title  = "Google Identity-Aware Proxy",
  fields = {
    { name = "key", type = "document", required = true, help = "The service account's JSON key file: key=@FILE",
      split = { type = {}, client_email = {}, token_uri = { url = true }, private_key = { secret = true },
                private_key_id = { optional = true } } },
    { name = "audience", required = true, help = "IAP's OAuth client id, or the application's URL" },
    { name = "header", type = "enum", values = { "authorization", "proxy-authorization" }, default = "authorization",
      help = "proxy-authorization: Authorization is the application's" },
  },

  validate = function(cred)
    if cred.key.type ~= "service_account" then
      return nil, "key", ("is a file of the type '%s', not the key of a service_account"):format(cred.key.type:sub(1, 40))
    end
    local why = sign.key_problem("RS256", cred.key.private_key)
    if why then return nil, "key", "has a private_key that " .. why end
    local url, id = cred.audience:find("^https://[^%s]+$"), cred.audience:find("^[%w._-]+%.apps%.googleusercontent%.com$")
    if not url and not id then
      return nil, "audience", "is IAP's client id (….apps.googleusercontent.com), or a URL that begins with https://"
    end
    return true
  end,

  strip = function(cred) return { headers = { cred.header } } end,

  -- RFC 6750 2.2 and 2.3: where else a bearer token may stand.
  carriers = { query = { "access_token" } },

  apply = function(req, cred)
    req.headers:set(cred.header, "Bearer " .. cred.state.access_token)
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
    if cred.audience:find("^https://") then
      local token = of_key(cred, { sub = cred.key.client_email, aud = cred.audience }, now)
      if not token then return nil, "bad_key" end
      return { secrets = { access_token = token }, expires_at = now + LIFETIME }
    end
    local assertion = of_key(cred, { aud = cred.key.token_uri, target_audience = cred.audience }, now)
    if not assertion then return nil, "bad_key" end
    local answer, code, detail = net.token(cred.key.token_uri, {
      form = { { "grant_type", GRANT }, { "assertion", assertion } }, member = "id_token", ttl = LIFETIME,
    }, deadline)
    if not answer then return nil, code, detail end
    return { secrets = { access_token = answer.secrets.access_token }, expires_at = answer.expires_at }
  end,

  examples = {
    { cred = { key = { type = "service_account", client_email = "a@p.iam.gserviceaccount.com",
                       token_uri = "https://oauth2.googleapis.com/token", private_key = "k" },
               audience = "1234-abc.apps.googleusercontent.com", state = { access_token = "t1" } },
      req  = { headers = { authorization = "Bearer placeholder" } },
      want = { headers = { authorization = "Bearer t1", ["proxy-authorization"] = false } } },
    { cred = { key = { type = "service_account", client_email = "a@p.iam.gserviceaccount.com",
                       token_uri = "https://oauth2.googleapis.com/token", private_key = "k" },
               audience = "https://app.example.com/*", header = "proxy-authorization", state = { access_token = "t1" } },
      req  = { headers = { authorization = "Bearer placeholder" } },
      want = { headers = { ["proxy-authorization"] = "Bearer t1", authorization = false } } },
  },
}
