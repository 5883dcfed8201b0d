--- Does a text look like a secret? For files that are to hold none: what is taken for one and is none is named by the
-- operator (`--keep`), what is not taken for one is given to an agent. So a doubt counts as a yes.
local M = {}

--- Words of a name (of a header, a parameter, an option) whose value is a secret however it is written.
local words = { "auth", "cookie", "key", "token", "secret", "passw", "passphrase", "credential", "session", "signature", "_pat$", "^pat$",
  "_pwd$", "pass$", "mnemonic", "seed_?phrase" }

-- Names with such a word that say of a secret where it is, how it is made or how long it lasts.
local about = { "file$", "path$", "dir$", "url$", "uri$", "endpoint$", "host$", "id$", "name$", "type$", "method$", "mode$", "scheme$",
  "header$", "ttl$", "timeout$", "expiry$", "expires$", "expires_in$", "limit$", "count$", "length$", "size$", "format$", "alg$",
  "algorithm$", "prefix$", "public_?key$", "keyboard", "keyword", "keymap", "keycloak", "keepalive", "monkey", "author$", "authority$",
  "tokenizer", "max_?tokens$", "enabled$", "disabled$", "provider$", "region$", "audience$", "scopes?$", "_var$", "_env$", "^no_" }

-- What nobody would keep secret, whatever its name.
local plain_values = { ["true"] = true, ["false"] = true, yes = true, no = true, on = true, off = true, none = true, null = true,
  oauth = true, bearer = true, basic = true, auto = true, default = true }

local function any_of(text, list)
  for _, pattern in ipairs(list) do
    if text:find(pattern) then return true end
  end
  return false
end

-- Names of what tells one thing from another: a UUID or a hash under them is no secret.
local ids = { "id$", "ids$", "sha%d*$", "hash$", "digest$", "commit$", "rev$", "revision$", "ref$", "version$", "checksum$",
  "fingerprint$", "integrity$", "address$", "uuid$", "guid$", "thumbprint$", "project$", "workspace$", "image$" }

-- "API-Key", "apiKey" and "API_KEY" are one name.
local function folded(name)
  return (name:gsub("^%-+", ""):gsub("(%l)(%u)", "%1_%2"):gsub("[-. ]", "_"):lower())
end

--- Is there a word for secrets in it? A header or a parameter of that name goes out with each request, so it counts
-- whatever else its name says.
function M.word(name) return any_of(folded(name), words) end

--- Is this the name of a secret? `value`: what it holds, which may say that it is none.
function M.named(name, value)
  local lower = folded(name)
  if value == "" or plain_values[value:lower()] or value:find("^%-?%d?%d?%d?%d?%d?$") then return false end
  return any_of(lower, words) and not any_of(lower, about)
end

-- Beginnings that services give their keys, each with the least number of characters behind it.
local prefixes = {
  { "sk-", 6 }, { "sk_", 8 }, { "rk_", 8 }, { "ghp_", 6 }, { "gho_", 6 }, { "ghu_", 6 }, { "ghs_", 6 }, { "ghr_", 6 }, { "github_pat_", 6 },
  { "glpat-", 6 }, { "gldt-", 6 }, { "glrt-", 6 }, { "glcbt-", 6 }, { "glptt-", 6 }, { "glsoat-", 6 }, { "xoxa-", 6 }, { "xoxb-", 6 },
  { "xoxe-", 6 }, { "xoxe.", 6 }, { "xoxo-", 6 }, { "xoxp-", 6 }, { "xoxr-", 6 }, { "xoxs-", 6 }, { "xoxc-", 6 }, { "xoxd-", 6 }, { "xapp-", 6 },
  { "AKIA", 12 }, { "ASIA", 12 }, { "AIza", 20 }, { "ya29.", 10 }, { "GOCSPX-", 10 }, { "1//0", 20 }, { "eyJ", 12 }, { "hf_", 10 }, { "npm_", 10 },
  { "pypi-", 10 }, { "dop_v1_", 10 }, { "doo_v1_", 10 }, { "dor_v1_", 10 }, { "SG.", 16 }, { "ntn_", 6 }, { "secret_", 12 }, { "lin_api_", 6 },
  { "lin_oauth_", 6 }, { "figd_", 6 }, { "sntrys_", 4 }, { "sntryu_", 4 }, { "shpat_", 6 }, { "shpca_", 6 }, { "shppa_", 6 }, { "shpss_", 6 },
  { "NRAK-", 6 }, { "glsa_", 6 }, { "glc_", 10 }, { "pplx-", 6 }, { "gsk_", 8 }, { "xai-", 10 }, { "r8_", 10 }, { "tvly-", 6 }, { "fc-", 12 },
  { "sbp_", 6 }, { "sb_secret_", 6 }, { "napi_", 10 }, { "phx_", 8 }, { "ATATT", 10 }, { "ATCTT", 10 }, { "pat-na1-", 6 }, { "pat-eu1-", 6 },
  { "whsec_", 8 }, { "ak_", 10 }, { "dckr_pat_", 6 }, { "dckr_oat_", 6 }, { "AGE-SECRET-KEY-", 4 }, { "apify_api_", 6 }, { "sq0atp-", 6 },
  { "EAAA", 20 }, { "PMAK-", 6 }, { "hvs.", 8 }, { "hvb.", 8 }, { "dp.pt.", 6 }, { "dp.st.", 6 }, { "rnd_", 10 }, { "nvapi-", 6 }, { "patn_", 6 },
  { "pcsk_", 6 }, { "key-", 20 }, { "fw_", 16 }, { "bkua_", 6 }, { "CCIPAT_", 6 }, { "csk-", 8 }, { "vcp_", 8 }, { "nfp_", 8 }, { "rpa_", 8 },
  { "cfut_", 8 },
}

-- One begins where no letter or digit stands before it.
local function known_prefix(text)
  for _, p in ipairs(prefixes) do
    local at = 1
    while true do
      local from, to = text:find(p[1], at, true)
      if not from then break end
      if not text:find("^%w", from - 1) or from == 1 then
        local rest = text:sub(to + 1, to + 64):match("^[%w_.-]*")
        if #rest >= p[2] and not (rest:find("^%l+$") or rest:find("^%l[%l-]*$")) then return true end
      end
      at = to + 1
    end
  end
  return text:find("%-%-%-%-%-BEGIN [%u ]*PRIVATE KEY") ~= nil
end

-- How often letters, capitals and digits take turns: in a text that nobody made up, at every other character.
local function turns(run)
  local n, last = 0, nil
  for c in run:gmatch("%w") do
    local kind = c:find("%d") and 1 or c:find("%u") and 2 or 3
    if last and kind ~= last then n = n + 1 end
    last = kind
  end
  return n
end

--- A text that nobody made up: twenty letters and digits on end, or as many in which they take turns. `how.uuid`: a
-- UUID counts. Not the name of a variable.
function M.random(text, how)
  text = text:gsub("%${[^}]*}", " "):gsub("sha%d+[:-][%w+/=]+", " "):gsub("[@#]%x+%f[%X]", function(hex)
    return #hex >= 8 and #hex <= 41 and hex:find("^.%x+$") and " " or nil        -- a package's commit
  end)
  local uuid = "%f[%w]%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x%f[%W]"
  if how and how.uuid and text:find(uuid) then return true end
  text = text:gsub(uuid, " ")
  if #text == 40 and text:find("^[%w/+]+$") and text:find("%l") and text:find("%u") and text:find("%d") then return true end     -- AWS's
  for run in text:gmatch("[%w_+-]+") do
    local piece_found = false
    for piece in run:gmatch("%w+") do
      piece_found = piece_found or #piece >= 20 and piece:find("%d") and piece:find("%a")
    end
    if piece_found then return true end
    local _, digits = run:gsub("%d", "")
    if #run >= 20 and digits >= 3 and turns(run) >= 0.35 * #run then return true end
  end
  return false
end

local function is_path(text)
  return text:find("^~?%.?%.?/[%w_. @-]+/") or text:find("^%.%.?/") or text:find("^~/") or text:find("^%a:[\\/]") or text:find("^file:")
end

-- What stands behind a name or a scheme, where it is neither a variable nor a word of a sentence.
local function given(value)
  return value and #value >= 6 and not value:find("^[$<{%%]") and not value:find("^%l+[,;.]?$")
end

local WINDOW, STEP = 4096, 3584      -- bytes of a long text at a time

--- Why a text looks like a secret by itself: a phrase, or nil. how = { name = what it stands under, or nil,
-- uuid = does a UUID count, known = look for what is known alone, not for what is random }
function M.secret(text, how)
  how = how or {}
  if text == "" then return nil end
  for at = #text > WINDOW and 1 or #text + 1, #text, STEP do
    local why = M.secret(text:sub(at, at + WINDOW - 1), how)
    if why or at + WINDOW > #text then return why end
  end
  local bare = text:gsub("%${[^}]*}", "$"):gsub("{env:[^}]*}", "$"):gsub("{file:[^}]*}", "$")
  if known_prefix(bare) then return "it begins as a service's keys do" end
  local user, password = bare:match("%a://([^/?#@%s]*)@"), nil
  if user then password = user:match(":(.+)$") end
  if password and not password:find("^[$%%{<*]") then return "an address with a password in it" end
  for scheme, value in bare:gmatch("%f[%a](%a+)%s+([%w_.~+/=:-]+)") do
    scheme = scheme:lower()
    if (scheme == "bearer" or scheme == "basic" or scheme == "token" or scheme == "apikey") and given(value) then
      return "a " .. scheme .. " value"
    end
  end
  for name, at in bare:gmatch("%f[%w_-]([%w_-]+)[\"']?%s*[=:]%s*[\"']?()") do
    local value = bare:sub(at, at + 200):match("^[^%s\"',&;]+")
    if given(value) and value:sub(1, 2) ~= "//" and M.named(name, value) and not is_path(value) then return ("its %s="):format(name:sub(1, 40)) end
  end
  if how.name and M.named(how.name, bare) and bare ~= "$" and not is_path(bare) and not bare:find("^%$[%u_]+$") then
    return "it is named like one"
  end
  if how.name and any_of(folded(how.name), ids) and bare:find("^0?x?[%x-]+$") or how.name and folded(how.name):find("client_?id$") then return nil end
  if not how.known and (how.uuid or not is_path(bare)) and M.random(bare, how) then return "it looks like nothing that a person made up" end
end

return M
