--- A credential's own TLS on the command line: client_cert and client_key (mutual TLS), ca (roots or pins).
-- Checked when it is saved by the code that opens it later (module tls); shown without the key.
local report = require "cli.report"
local M = {}

local SOON = 30 * 86400   -- seconds before a certificate's end at which `show` and `doctor` speak up

-- field/code of tls.identity, or a code alone -> a sentence behind the field's name, advice
local faults = {
  ["client_cert/missing"] = { "is missing: client_key is of no use without its certificate", "client_cert=@FILE" },
  ["client_cert/too_many"] = { "has more than 10 certificates", "the credential's own, and the issuers between it and a root" },
  ["client_key/missing"] = { "is missing: client_cert needs the private key that belongs to it", "client_key=@FILE" },
  ["client_cert/private_key"] = { "has a private key in it, and it is not kept as a secret",
    "give the certificates alone, and the key as client_key=@FILE (client_key may be that whole file)" },
  ["client_key/mismatch"] = { "does not belong to client_cert (their public keys differ)",
    "the first certificate in client_cert is the one that the key belongs to; its issuers follow it" },
  ["client_key/encrypted"] = { "is protected by a passphrase", "openssl pkey -in KEY -out PLAIN takes it off" },
  ["client_key/unsupported"] = { "is of a kind that TLS 1.2 here cannot use: RSA, or EC on P-256, P-384 or P-521" },
  ["client_key/no_private_key"] = { "has no private key in it" },
  ["client_key/not_a_key"] = { "is not a private key in PEM form: it has no -----BEGIN line" },
  ["client_key/openssh_format"] = { "is an SSH key, not a key for TLS" },
  ["client_key/escaped_newlines"] = { "has \\n spelled out where lines should end" },
  ["ca/private_key"] = { "has a private key in it, which does not belong there" },
  ["ca/malformed_pin"] = { "is neither certificates in PEM form nor sha256:HEX",
    "ca=@FILE, or ca=sha256:… with the 64 digits of `openssl x509 -noout -fingerprint -sha256`" },
  malformed = { "is damaged: a certificate in it cannot be read" },
  no_certificate = { "is not PEM: it has no -----BEGIN CERTIFICATE line that can be used" },
  too_large = { "is larger than 64 KiB" },
}

--- "client_key does not belong to …", advice
function M.why(field, code)
  local fault = faults[field .. "/" .. code] or faults[code] or { "cannot be used: " .. tostring(code) }
  return field .. " " .. fault[1], fault[2]
end

local function is_pin(ca) return ca ~= nil and not ca:find("-----BEGIN ", 1, true) end

local function first(pem)
  local list = pem and require("cli.certificates").list(pem)
  return list and list[1]
end

-- What is wrong with a certificate's dates now or soon; nil: nothing.
local function dates(cert, now)
  if now > cert.not_after then return ("expired on %s"):format(report.time(cert.not_after)) end
  if now < cert.not_before then return ("is not valid before %s"):format(report.time(cert.not_before)) end
  if cert.not_after - now < SOON then return ("expires on %s"):format(report.time(cert.not_after)) end
end

--- Ends the command where a record's TLS cannot be used.
function M.check(plain, secrets)
  local key = secrets["c/client_key"]
  if not (plain.client_cert or key or plain.ca) then return end
  local identity, field, code = require("identity").new(plain.client_cert, key, plain.ca)
  if not identity then report.usage(M.why(field, code)) end
end

--- { { name, trouble } … }: what `show`, `doctor` and `add` should say of dates.
function M.troubles(record, now)
  local out = {}
  for _, name in ipairs { "client_cert", "ca" } do
    local cert = not is_pin(record[name]) and first(record[name])
    local why = cert and dates(cert, now)
    if why then out[#out + 1] = { name, why } end
  end
  return out
end

--- { { name, text } … } for `credential show`.
function M.rows(record, now)
  local out = {}
  local cert = first(record.client_cert)
  if cert then
    local why = dates(cert, now)
    out[1] = { "client_cert", ("%s, by %s, until %s%s"):format(cert.subject, cert.issuer,
      report.time(cert.not_after), why and " (" .. why .. ")" or "") }
  end
  if is_pin(record.ca) then
    out[#out + 1] = { "ca", record.ca }
  elseif record.ca then
    for _, c in ipairs(require("cli.certificates").list(record.ca) or {}) do
      out[#out + 1] = { "ca", ("%s, until %s, sha256:%s"):format(c.subject, report.time(c.not_after), c.sha256) }
    end
  end
  if record.tls then out[#out + 1] = { "tls", record.tls .. ": takes its CN for a name, and CBC ciphers" } end
  return out
end

--- For --json: what the certificates say in place of their text.
function M.public(out)
  for _, name in ipairs { "client_cert", "ca" } do
    if out[name] and not is_pin(out[name]) then
      out[name] = report.array(require("cli.certificates").list(out[name]) or {})
    end
  end
end

return M
