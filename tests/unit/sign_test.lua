--- Signatures and JWTs against what RFC 7515, 6979 and 4231 publish; what is said of keys that cannot sign.
local sign, secret, core, json = require "sign", require "secret", require "secret.core", require "json"
local keys, problem = dofile "tests/unit/keys.lua", require("keys").problem
local from_base64url = keys.from_base64url

local function hex(s) return (s:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end
local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end
local function raises(part, fn, ...)
  local ok, message = pcall(fn, ...)
  assert(not ok and tostring(message):find(part, 1, true), message)
end

local CLAIMS = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"

-- header, claims, signature of a compact JWS
local function taken_apart(jwt)
  local h, c, s = jwt:match "^([%w_-]+)%.([%w_-]+)%.([%w_-]*)$"
  assert(h, jwt)
  return from_base64url(h), from_base64url(c), from_base64url(s), h .. "." .. c
end

return {
  ["HS256: RFC 7515 A.1"] = function()
    local key = from_base64url "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
    is(secret.base64url(sign.signature("HS256", key, "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." .. CLAIMS)),
      "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")
  end,

  ["HS384 and HS512: RFC 4231 case 2"] = function()
    is(hex(sign.signature("HS384", "Jefe", "what do ya want for nothing?")),
      "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649")
    is(hex(sign.signature("HS512", "Jefe", "what do ya want for nothing?")):sub(1, 32), "164b7a7bfcf819e2e395fbe73b56e0a3")
  end,

  ["RS256: RFC 7515 A.2, from PKCS#1 and from PKCS#8"] = function()
    local want = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdb"
      .. "F9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOL"
      .. "n6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB"
      .. "p0igcN_IoypGlUPQGe77Rw"
    is(secret.base64url(sign.signature("RS256", keys.rsa, "eyJhbGciOiJSUzI1NiJ9." .. CLAIMS)), want)
    is(secret.base64url(sign.signature("RS256", keys.rsa_pkcs8, "eyJhbGciOiJSUzI1NiJ9." .. CLAIMS)), want)
  end,

  -- No RFC has vectors for these with a key of that size: OpenSSL signed them (deterministic, so they must be equal).
  ["RS384 and RS512: as OpenSSL signs"] = function()
    local input = "eyJhbGciOiJSUzI1NiJ9." .. CLAIMS
    is(hex(sign.signature("RS384", keys.rsa, input)):sub(1, 48), "40c96a9c8938260e95e01b191836f73d328e4593f0f9ea14")
    is(hex(sign.signature("RS512", keys.rsa, input)):sub(1, 48), "8d554d16ab888d8b6c5d60c74c215aab4528361b8bdaaab4")
  end,

  ["ES256 and ES384: RFC 6979 A.2.5 and A.2.6, R and S as they are"] = function()
    is(hex(sign.signature("ES256", keys.p256, "sample")),
      "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
      .. "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8")
    is(hex(sign.signature("ES256", keys.p256, "test")),
      "f1abb023518351cd71d881567b1ea663ed3efcf6c5132b354f28d3b0b7d38367"
      .. "019f4113742a2b14bd25926b49c649155f267e60d3814b4c0cc84250e46f0083")
    is(hex(sign.signature("ES384", keys.p384, "sample")),
      "94edbb92a5ecb8aad4736e56c691916b3f88140666ce9fa73d64c4ea95ad133c81a648152e44acf96e36dd1e80fabe46"
      .. "99ef4aeb15f178cea1fe40db2603138f130e740a19624526203b6351d0a3a94fa329c145786e679e7b82c71a38628ac8")
  end,

  ["a JWT has its algorithm in its header, the caller's members beside it, and signs both parts"] = function()
    local claims = { iss = "joe", exp = 1300819380, aud = { "a", "b" }, ["http://example.com/is_root"] = true }
    local h, c, s, input = taken_apart(sign.jwt { alg = "RS256", key = keys.rsa, header = { kid = "k1" }, claims = claims })
    is(h, '{"alg":"RS256","kid":"k1","typ":"JWT"}')
    is(c, '{"aud":["a","b"],"exp":1300819380,"http://example.com/is_root":true,"iss":"joe"}')
    is(s, sign.signature("RS256", keys.rsa, input))
    for _, alg in ipairs { "HS256", "HS384", "HS512", "ES256", "ES384" } do
      local key = alg == "ES256" and keys.p256 or alg == "ES384" and keys.p384 or "a secret of thirty-two characters"
      h, c, s, input = taken_apart(sign.jwt { alg = alg, key = key, claims = {} })
      is(h, '{"alg":"' .. alg .. '","typ":"JWT"}')
      is(c, "{}")
      is(s, sign.signature(alg, key, input))
    end
  end,

  ["a JWT's header may name another type, never another algorithm"] = function()
    local header = { alg = "none", typ = "at+jwt" }
    is((taken_apart(sign.jwt { alg = "HS256", key = "k", header = header, claims = {} })), '{"alg":"HS256","typ":"at+jwt"}')
    is(header.alg, "none")
  end,

  ["what a secret signs is a secret, and so is a JWT with one in it"] = function()
    local rsa = core.of(keys.rsa)
    assert(secret.is(sign.signature("RS256", rsa, "x")) and secret.is(sign.signature("HS256", core.of "k", "x")))
    assert(secret.is(sign.signature("RS256", keys.rsa, core.of "x")))
    assert(secret.is(sign.jwt { alg = "RS256", key = rsa, claims = {} }))
    assert(secret.is(sign.jwt { alg = "HS256", key = "k", claims = { nonce = core.of "x" } }))
  end,

  ["a key that cannot sign is told by a code, and said in a sentence"] = function()
    local function told(alg, key, want, part)
      local code
      local got, why = sign.signature(alg, core.of(key), "x")
      is(got, nil)
      is(why, want)
      got, why = sign.jwt { alg = alg, key = core.of(key), claims = {} }
      is(got, nil)
      is(why, want)
      got, code = problem(alg, core.of(key))
      is(code, want)
      assert(got:find(part, 1, true), got)
    end
    told("RS256", keys.p256, "wrong_key", "is no RSA key, which RS256 needs")
    told("ES256", keys.rsa, "wrong_key", "is no EC key on P-256, which ES256 needs")
    told("ES256", keys.p384, "wrong_key", "P-256")
    -- RFC 8410, 10.3
    local ed25519 = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n"
    told("RS256", ed25519, "unsupported", "of a kind that is not known here")
    told("ES256", ed25519, "unsupported", "of a kind that is not known here")
    told("ES384", keys.p256, "wrong_key", "P-384")
    told("RS256", keys.weak, "weak_key", "less than 2048 bits")
    told("ES256", keys.encrypted, "encrypted", "passphrase")
    told("ES256", keys.certificate, "no_private_key", "certificate")
    told("RS256", keys.rsa_public, "no_private_key", "public key")
    told("RS256", keys.rsa:gsub("\n", "\\n"), "escaped_newlines", "\\n spelled out")
    told("RS256", '{"kty":"RSA","n":"x"}', "json", "JWK")
    told("RS256", ' \n{"type":"service_account"}', "json", "key file")
    told("RS256", "hunter2", "not_a_key", "-----BEGIN")
    told("RS256", "", "not_a_key", "-----BEGIN")
    told("RS256", keys.rsa:sub(1, 300), "malformed", "damaged")
    told("RS256", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----", "openssh_format", "ssh-keygen")
    is(problem("RS256", core.of(keys.rsa_pkcs8)), nil)
    is(problem("ES384", core.of(keys.p384)), nil)
    is(problem("HS256", core.of "anything"), nil)
  end,

  ["a signature that would give the key away is never seen"] = function()
    local got, why = sign.signature("RS256", keys.broken, "x")
    is(got, nil)
    is(why, "bad_key")
    is(select(2, problem("RS256", keys.broken)), "bad_key")
  end,

  ["the public half is what OpenSSL says, and no secret"] = function()
    local function pem(der, name)
      return "-----BEGIN " .. name .. "-----\n" .. secret.base64(der):gsub(("."):rep(64), "%0\n"):gsub("\n$", "")
        .. "\n-----END " .. name .. "-----\n"
    end
    is(pem(sign.public_key(core.of(keys.rsa)), "PUBLIC KEY"), keys.rsa_public)
    is(pem(sign.public_key(core.of(keys.p384)), "PUBLIC KEY"), keys.p384_public)
    for _, name in ipairs { "primes_1_mod_4", "exponent_3" } do
      is(pem(sign.public_key(keys[name]), "PUBLIC KEY"), keys[name .. "_public"])
      assert(sign.signature("RS256", keys[name], "x"), name)
    end
    is(select(2, sign.public_key(core.of(keys.encrypted))), "encrypted")
    is(select(2, sign.public_key "x"), "not_a_key")
  end,

  ["an unknown algorithm, and none, raise"] = function()
    for _, alg in ipairs { "none", "PS256", "rs256", "", "ES512" } do
      raises("HS256, RS256, ES256", sign.signature, alg, "k", "x")
      raises("HS256, RS256, ES256", sign.jwt, { alg = alg, key = "k", claims = {} })
    end
    raises("claims is a table", sign.jwt, { alg = "HS256", key = "k" })
    raises("string or secret", sign.jwt, { alg = "HS256", claims = {} })
    raises("json", sign.jwt, { alg = "HS256", key = "k", claims = { f = print } })
    is(json.encode {}, "{}")
  end,
}
