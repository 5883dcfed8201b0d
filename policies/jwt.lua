--- A token signed here and sent as it is: a JWT with claims of your own.
-- RFC 7519 (JWT), RFC 7515 (compact form), RFC 7518 (algorithms). Signed ahead and kept: no request waits for a
-- signature, and one token serves for half of its lifetime.
--
-- For: App Store Connect, Zoom, Snowflake key pairs, Apple Push, a GitHub App's own calls, MapKit, LiveKit, …
--   sallyport credential add appstore --type jwt --host api.appstoreconnect.apple.com private_key=@AuthKey_ABC.p8 \
--     key_id=ABC claims.iss=ISSUER_ID claims.aud=appstoreconnect-v1 lifetime=1200
--   sallyport credential add snow --type jwt --host myorg-acct.snowflakecomputing.com private_key=@snow.p8 lifetime=3600 \
--     'claims.iss=MYORG-ACCT.ROBOT.${fingerprint}' claims.sub=MYORG-ACCT.ROBOT \
--     headers.x-snowflake-authorization-token-type=KEYPAIR_JWT
--   sallyport credential add zoom --type jwt --host api.zoom.example secret=@zoom.txt claims.iss=API_KEY
--   sallyport credential add app --type jwt --host api.github.com --path /app private_key=@app.pem claims.iss=12345 \
--     'claims.iat=${now-60}' lifetime=540
-- Fields: private_key, PEM: PKCS#8, PKCS#1 or SEC1 (secret), or else secret, for HS256 and its like (secret);
--         algorithm, what the key is for unless named (RS256, ES256, ES384; HS256 with a secret);
--         key_id, the header's kid; jose.NAME, further members of the header; claims.NAME; lifetime, seconds;
--         header, where the token goes, and prefix, what stands before it there.
-- Claims and jose values are texts in which ${…} is filled: now and exp (seconds; a sum such as ${now-60} too), jti (32
-- random hex digits), key_id, fingerprint (SHA256: and the Base64 SHA-256 of the public key, as Snowflake writes it).
-- A value that is ${now}, ${exp} or such a sum alone is a number. json:VALUE is JSON: claims.aud='json:["a","b"]'.
-- iat and exp are set unless claims.iat says else.
local algorithms = { "RS256", "RS384", "RS512", "ES256", "ES384", "HS256", "HS384", "HS512" }
local of_kind = { rsa = "RS256", ["P-256"] = "ES256", ["P-384"] = "ES384" }

local function algorithm_of(cred)
  if cred.algorithm then return cred.algorithm end
  if cred.secret then return "HS256" end
  local info = sign.key_info(cred.private_key)
  return info and (of_kind[info.curve] or of_kind[info.type]) or "RS256"
end

-- What ${name} stands for; nil: nothing.
local function place(name, with)
  local base, sum = name:match("^(%l+)([+-]%d+)$")
  if base then
    local n = math.tointeger(with[base])
    return n and #sum < 10 and n + math.tointeger(tonumber(sum)) or nil
  end
  return with[name]
end

-- A text with its places filled; a number where the place is all of it and is one. nil, name: an unknown place.
local function filled(text, with)
  local alone = text:match("^%${([^{}]*)}$")
  if alone and math.type(place(alone, with)) == "integer" then return place(alone, with) end
  local unknown
  local out = text:gsub("%${([^{}]*)}", function(name)
    local v = place(name, with)
    if v == nil then unknown = unknown or name end
    return v ~= nil and tostring(v) or ""
  end)
  if unknown then return nil, unknown end
  return out
end

-- The same for JSON: its texts, however deep.
local function filled_all(value, with)
  if type(value) == "string" then return filled(value, with) end
  if type(value) ~= "table" then return value end
  local out = #value > 0 and {} or value
  for k, v in pairs(value) do
    local why
    out[k], why = filled_all(v, with)
    if out[k] == nil then return nil, why end
  end
  return out
end

-- One field's members, filled. nil, reason
local function members(map, with)
  local out = {}
  for name, text in pairs(map or {}) do
    local source, value, why = text:match("^json:(.*)$"), text, nil
    if source then value = json.decode(source) end
    if value == nil then return nil, ("has a '%s' whose json: is not JSON"):format(name) end
    out[name], why = filled_all(value, with)
    if out[name] == nil then
      return nil, ("has a '%s' with ${%s}: there are now, exp, jti, key_id and fingerprint"):format(name, tostring(why))
    end
  end
  return out
end

-- header, claims, exp | nil, field, reason
local function parts(cred, now)
  local exp = now + cred.lifetime
  local with = { now = now, exp = exp, jti = sign.nonce(), key_id = cred.key_id }
  if cred.private_key then
    local public = sign.public_key(cred.private_key)
    with.fingerprint = public and "SHA256:" .. secret.base64(sign.sha256(public)) or nil
  end
  local header, why = members(cred.jose, with)
  if not header then return nil, "jose", why end
  local claims
  claims, why = members(cred.claims, with)
  if not claims then return nil, "claims", why end
  header.kid = header.kid or cred.key_id
  claims.iat, claims.exp = claims.iat or now, exp
  return header, claims, exp
end

return {
  kind   = "type",
  api    = 1,
  name   = "jwt",
  title  = "A JWT signed here",
  fields = {
    { name = "private_key", type = "pem", secret = true, help = "PEM private key: private_key=@FILE" },
    { name = "secret", secret = true, help = "In place of private_key, for HS256, HS384, HS512" },
    { name = "algorithm", type = "enum", values = algorithms, help = "What the key is for unless named" },
    { name = "key_id", help = "kid of the header" },
    { name = "jose", type = "map", help = "jose.NAME=VALUE: a further member of the header" },
    { name = "claims", type = "map", help = "claims.NAME=VALUE, with ${now}, ${exp}, ${jti}, ${fingerprint}" },
    { name = "lifetime", type = "integer", default = 600, min = 20, max = 30 * 86400, help = "Seconds" },
    { name = "header", default = "authorization", header = true, help = "Header the token goes in" },
    { name = "prefix", default = "Bearer ", help = "What stands before it" },
  },

  validate = function(cred)
    if not cred.private_key == not cred.secret then
      return nil, "private_key", cred.secret and "and secret are both given: one of them signs"
        or "is missing, and so is secret: one of them signs"
    end
    local alg = algorithm_of(cred)
    if alg:find("^HS") and cred.private_key then return nil, "algorithm", alg .. " signs with secret, not private_key" end
    if not alg:find("^HS") and cred.secret then return nil, "algorithm", alg .. " signs with private_key, not secret" end
    local why = cred.private_key and sign.key_problem(alg, cred.private_key)
    if why then return nil, "private_key", why end
    if (cred.claims or {}).exp then return nil, "claims", "has 'exp', which lifetime sets" end
    if (cred.jose or {}).alg then return nil, "jose", "has 'alg', which algorithm sets" end
    local ok, field, reason = parts(cred, time.wall())
    if not ok then return nil, field, reason end
    return true
  end,

  strip = function(cred) return { headers = { cred.header } } end,

  -- RFC 6750 2.2 and 2.3: where else a bearer token may stand.
  carriers = { query = { "access_token" } },

  apply = function(req, cred)
    req.headers:set(cred.header, cred.prefix .. cred.state.access_token)
  end,

  refresh = function(cred)
    local header, claims, exp = parts(cred, time.wall())
    if not header then return nil, "bad_key" end
    local token = sign.jwt { alg = algorithm_of(cred), key = cred.private_key or cred.secret, header = header, claims = claims }
    if not token then return nil, "bad_key" end
    return { secrets = { access_token = token }, expires_at = exp }
  end,

  examples = {
    { cred = { secret = "k", state = { access_token = "a.b.c" } },
      req  = { headers = { authorization = "Bearer placeholder" } },
      want = { headers = { authorization = "Bearer a.b.c" } } },
    { cred = { secret = "k", header = "x-token", prefix = "", state = { access_token = "a.b.c" } },
      req  = { headers = { ["X-Token"] = "placeholder" } },
      want = { headers = { ["x-token"] = "a.b.c", authorization = false } } },
  },
}
