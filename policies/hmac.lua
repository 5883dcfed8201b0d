--- Requests signed with an HMAC, for APIs that roll their own.
-- RFC 2104 (HMAC), FIPS 180-4 (the hashes). What is signed and where the signature goes are templates.
--
-- For: exchanges (Binance, Bybit, OKX, KuCoin, Coinbase Exchange), payment and logistics APIs, webhooks' receivers.
--   sallyport credential add okx --type hmac --host www.okx.com key=@secret.txt key_id=ID encoding=base64 \
--     string='{iso_ms}{method}{target}{body}' set.OK-ACCESS-KEY={key_id} set.OK-ACCESS-TIMESTAMP={iso_ms} \
--     set.OK-ACCESS-SIGN={signature} headers.OK-ACCESS-PASSPHRASE=@passphrase.txt
--   sallyport credential add coinbase --type hmac --host api.exchange.coinbase.com key=@secret.txt key_encoding=base64 \
--     key_id=ID encoding=base64 string='{timestamp}{method}{target}{body}' set.CB-ACCESS-KEY={key_id} \
--     set.CB-ACCESS-TIMESTAMP={timestamp} set.CB-ACCESS-SIGN={signature} headers.CB-ACCESS-PASSPHRASE=@passphrase.txt
--   sallyport credential add binance --type hmac --host api.binance.com key=@secret.txt key_id=ID string='{query}{body}' \
--     set.X-MBX-APIKEY={key_id} query.timestamp={timestamp_ms} query.signature={signature}
-- Fields: key (secret); key_encoding, how it is written: raw, hex, base64, base64url; key_id, where there is one;
--         algorithm: sha256, sha1, sha384, sha512; string, what is signed; encoding of the signature: hex, base64,
--         base64url; set.NAME, headers; query.NAME, parameters (set before the string is made, unless they hold the
--         signature: that one goes last); body_hash and body_hash_encoding, for {body_hash}.
-- Templates: {method} {host} {path} {query} (without ?) {target} (path and query) {body} {body_hash} {timestamp}
--   {timestamp_ms} {iso} {iso_ms} {nonce} {key_id} {header:NAME} {signature}; \n is a line's end, {{ and }} are braces.
-- What the agent sent under the names that are set here goes. A body that is signed is read first, up to body-max.

local names = {}
for name in ("method host path query target body body_hash timestamp timestamp_ms iso iso_ms nonce key_id"):gmatch("%S+") do
  names[name] = true
end

-- The parts of a template: texts, and { name }. nil, what is wrong
local brace = lpeg.P"{{" / "{" + lpeg.P"}}" / "}" + lpeg.P"\\n" / "\n" + lpeg.P"\\\\" / "\\"
local place = lpeg.Ct(lpeg.P"{" * lpeg.C((1 - lpeg.S"{}")^1) * lpeg.P"}")
local template = lpeg.Ct((place + lpeg.Cs((brace + (1 - lpeg.S"{}\\"))^1))^0) * -1

local function parts_of(text)
  local parts = template:match(text)
  if not parts then return nil, "has a brace that is not closed, or a \\ that is neither \\n nor \\\\ (a brace is {{ or }})" end
  return parts
end

local function uses(text, name)
  for _, part in ipairs(parts_of(text) or {}) do
    if type(part) == "table" and part[1] == name then return true end
  end
  return false
end

local function check(text, signature)
  local parts, why = parts_of(text)
  if not parts then return nil, why end
  for _, part in ipairs(parts) do
    local name = type(part) == "table" and part[1]
    if name and not (names[name] or name == "signature" and signature or name:find("^header:[%w!#$%%&'*+.^_`|~-]+$")) then
      return nil, ("has {%s}, which stands for nothing here"):format(name)
    end
  end
  return true
end

local encode = {
  hex = secret.hex, base64 = secret.base64, base64url = secret.base64url,
}

-- What a name stands for. Made when it is asked for: the query may have changed.
local function value_of(req, cred, name, fixed)
  if fixed[name] ~= nil then return fixed[name] end
  local header = name:match("^header:(.+)$")
  if header then return req.headers:get(header) or "" end
  if name == "query" then return req.query_text or "" end
  if name == "target" then
    local query = req.query_text
    return query and req.path .. "?" .. query or req.path
  end
  if name == "body" then return req.body or "" end
  if name == "body_hash" then
    return encode[cred.body_hash_encoding](sign.digest(cred.body_hash, req.body or ""))
  end
  if name == "key_id" then return cred.key_id or "" end
  return req[name]
end

local function filled(req, cred, text, fixed)
  local out = ""
  for _, part in ipairs(parts_of(text)) do
    out = out .. (type(part) == "table" and value_of(req, cred, part[1], fixed) or part)
  end
  return out
end

-- A map's names in one order: what is sent must not hang on chance.
local function sorted(map)
  local list = {}
  for name in pairs(map or {}) do list[#list + 1] = name end
  table.sort(list)
  return list
end

local function signs_body(cred)
  local all = { cred.string }
  for _, map in ipairs { cred.set or {}, cred.query or {} } do
    for _, text in pairs(map) do all[#all + 1] = text end
  end
  for _, text in ipairs(all) do
    if uses(text, "body") or uses(text, "body_hash") then return true end
  end
  return false
end

local function key_of(cred)
  if cred.key_encoding == "raw" then return cred.key end
  return secret.decode(cred.key_encoding, cred.key)
end

return {
  kind   = "type",
  api    = 1,
  name   = "hmac",
  title  = "Requests signed with an HMAC",
  sends_secret = false,
  fields = {
    { name = "key", secret = true, required = true, help = "The key that signs" },
    { name = "key_encoding", type = "enum", values = { "raw", "hex", "base64", "base64url" }, default = "raw" },
    { name = "key_id", help = "The key's public name, for {key_id}" },
    { name = "algorithm", type = "enum", values = { "sha256", "sha1", "sha384", "sha512" }, default = "sha256" },
    { name = "string", required = true, help = "What is signed: '{timestamp}{method}{target}{body}'" },
    { name = "encoding", type = "enum", values = { "hex", "base64", "base64url" }, default = "hex",
      help = "How the signature is written" },
    { name = "set", type = "map", header = true, help = "set.HEADER=TEMPLATE: set.X-Signature={signature}" },
    { name = "query", type = "map", help = "query.NAME=TEMPLATE: a parameter" },
    { name = "body_hash", type = "enum", values = { "sha256", "sha1", "sha384", "sha512" }, default = "sha256" },
    { name = "body_hash_encoding", type = "enum", values = { "hex", "base64", "base64url" }, default = "hex" },
  },

  validate = function(cred)
    local ok, why = check(cred.string, false)
    if not ok then return nil, "string", why end
    local signed = false
    for field, map in pairs { set = cred.set or {}, query = cred.query or {} } do
      for name, text in pairs(map) do
        ok, why = check(text, true)
        if not ok then return nil, field, ("has a '%s' that %s"):format(name, why) end
        signed = signed or uses(text, "signature")
      end
    end
    if not signed then return nil, "set", "and query have no {signature}: set.X-Signature={signature}" end
    if not key_of(cred) then return nil, "key", ("is not %s, as key_encoding says"):format(cred.key_encoding) end
    return true
  end,

  strip = function(cred) return { headers = sorted(cred.set), query = sorted(cred.query) } end,

  body = function(_, cred) return signs_body(cred) and {} or nil end,

  apply = function(req, cred)
    local wall = time.wall_ms()
    local now = wall // 1000
    local iso = time.iso(now)
    local fixed = {
      timestamp = tostring(now), timestamp_ms = tostring(wall), iso = iso,
      iso_ms = ("%s.%03dZ"):format(iso:sub(1, -2), wall % 1000), nonce = sign.nonce(),
    }
    for _, name in ipairs(sorted(cred.query)) do
      if not uses(cred.query[name], "signature") then req.query:set(name, filled(req, cred, cred.query[name], fixed)) end
    end
    local key = key_of(cred)
    if not key then return nil, "its key is not " .. cred.key_encoding end
    fixed.signature = encode[cred.encoding](sign.hmac(cred.algorithm, key, filled(req, cred, cred.string, fixed)))
    for _, name in ipairs(sorted(cred.set)) do req.headers:set(name, filled(req, cred, cred.set[name], fixed)) end
    for _, name in ipairs(sorted(cred.query)) do
      if uses(cred.query[name], "signature") then req.query:set(name, filled(req, cred, cred.query[name], fixed)) end
    end
  end,

  -- In examples the clock stands at 1700000000 (2023-11-14T22:13:20Z) and a nonce is 32 zeros.
  examples = {
    -- Binance's own example, from its API documentation ("SIGNED endpoint security").
    { cred = { key = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j", key_id = "vmPUZE6mv9SD5VNHk4",
               string = "{query}{body}", set = { ["X-MBX-APIKEY"] = "{key_id}" }, query = { signature = "{signature}" } },
      req  = { url = "https://api.example.com/api/v3/order?symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1"
               .. "&price=0.1&recvWindow=5000&timestamp=1499827319559", headers = { ["x-mbx-apikey"] = "placeholder" } },
      want = { headers = { ["x-mbx-apikey"] = "vmPUZE6mv9SD5VNHk4" },
               query = { signature = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71" } } },
    { cred = { key = "c2VjcmV0", key_encoding = "base64", encoding = "base64", string = "{timestamp}{method}{target}{body}",
               set = { ["CB-ACCESS-SIGN"] = "{signature}", ["CB-ACCESS-TIMESTAMP"] = "{timestamp}" } },
      req  = { method = "POST", url = "https://api.example.com/orders?a=1", body = '{"size":"1"}',
               headers = { ["content-type"] = "application/json" } },
      want = { headers = { ["cb-access-timestamp"] = "1700000000",
                           ["cb-access-sign"] = "Qou2NhdX2cXK/mh0C3lEFwl9WYBi8n/GcqVGHOjNrnA=" } } },
    { cred = { key = "k", string = "{iso_ms}\\n{nonce}\\n{body_hash}", set = { ["X-Auth"] = "v1={signature}, d={iso_ms}" } },
      want = { headers = { ["x-auth"] = "v1=893e87922a0b3b04a196198c7c1def256a33887c2e8e9034abee201e56854305, d=2023-11-14T22:13:20.000Z" } } },
  },
}
