--- Pages and answers of the door. A template's {name} is a value: text, which is escaped, or what html() made, which is not.
-- Nothing else makes such a piece, so no value reaches a page unescaped. No page needs a script.
local M = {}

local Html = { __name = "html" }
local entity = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

local function piece(v)
  if getmetatable(v) == Html then return v[1] end
  if type(v) == "table" then
    local out = {}
    for i, item in ipairs(v) do out[i] = piece(item) end
    return table.concat(out)
  end
  return (tostring(v):gsub("[&<>\"']", entity))
end

--- html("<p>{who}</p>", { who = "a<b" }): every name of the template needs a value; false stands for nothing. Raises otherwise.
function M.html(template, values)
  return setmetatable({ (template:gsub("{([%l_]+)}", function(name)
    local v = values and values[name]
    if v == nil then error("html: no value for {" .. name .. "}", 3) end
    return v == false and "" or piece(v)
  end)) }, Html)
end
local html = M.html

local none = { __index = function() return false end }

--- The same, where a name without a value stands for nothing.
function M.sparse(template, values) return html(template, setmetatable(values or {}, none)) end

--- A text of ours as it is: style, a drawing.
function M.raw(text) return setmetatable({ text }, Html) end

--- A text in which `…` is a command or a value, as the command line's words have it.
function M.prose(text)
  local out, from = {}, 1
  for at, code, behind in text:gmatch("()`([^`\n]+)`()") do
    table.move({ text:sub(from, at - 1), html("<code>{c}</code>", { c = code }) }, 1, 2, #out + 1, out)
    from = behind
  end
  out[#out + 1] = text:sub(from)
  return out
end

-- Characters that show a text otherwise than it is: controls, directions (UAX 9), what has no width.
local function unseen(c)
  return c < 32 or c >= 127 and c < 160 or c == 0xAD or c == 0x61C or c >= 0x180B and c <= 0x180F or c >= 0x200B and c <= 0x200F
    or c >= 0x2028 and c <= 0x202E or c >= 0x2060 and c <= 0x206F or c == 0xFEFF or c >= 0xFFF0 and c <= 0xFFFB or c >= 0xE0000 and c <= 0xE0FFF
    or c == 0x115F or c == 0x1160 or c == 0x3164 or c == 0xFFA0
end

--- A stranger's text as it may be shown: one line, at most `max` characters, nothing unseen. nil where nothing is left.
function M.clean(s, max)
  if type(s) ~= "string" or not utf8.len(s) then return nil end
  local out = {}
  for _, c in utf8.codes(s) do
    if #out >= (max or 80) then break end
    if not unseen(c) then out[#out + 1] = utf8.char(c) end
  end
  local text = table.concat(out):gsub("%s+", " "):match("^ ?(.-) ?$")
  return text ~= "" and text or nil
end

--- A text of anybody's where no byte of it may be lost: what is unseen, and bytes that are not UTF-8, as \xNN.
function M.visible(text)
  local function hex(c) return ("\\x%02x"):format(c:byte()) end
  if not utf8.len(text) then return (text:gsub("[%c\128-\255]", hex)) end
  return (text:gsub(utf8.charpattern, function(c) return unseen(utf8.codepoint(c)) and c:gsub(".", hex) or nil end))
end

local STYLE = [[
:root{color-scheme:light dark;font:1rem/1.5 system-ui,sans-serif}
body{margin:0;padding:1rem;display:grid;justify-items:center}
main{width:100%;max-width:28rem;box-sizing:border-box;overflow-wrap:anywhere}
h1{font-size:1.4rem;line-height:1.2}h2{font-size:1.15rem;margin:1.5rem 0 .5rem}
ul{margin:0;padding:0;list-style:none}li{margin:.5rem 0}
label{display:block;margin:.6rem 0}
.pick{padding-left:1.8rem}
.pick input{float:left;margin:.35rem 0 0 -1.8rem;width:1.1rem;height:1.1rem}
input:not([type=checkbox],[type=radio]),button{font:inherit;box-sizing:border-box;width:100%;padding:.6rem;border-radius:.4rem;border:1px solid GrayText}
button{cursor:pointer;margin:.4rem 0}
.button{display:block;padding:.6rem;border-radius:.4rem;border:1px solid GrayText;text-align:center;text-decoration:none}
.go{background:#0b57d0;color:#fff;border-color:#0b57d0}
fieldset{border:1px solid GrayText;border-radius:.4rem;margin:1rem 0}
.warn{border-left:.3rem solid #b3261e;padding-left:.7rem}
small{display:block}dd small{display:inline}dt{font-weight:600}dd{margin:0 0 .4rem}
pre{white-space:pre-wrap;border:1px solid GrayText;border-radius:.4rem;padding:.6rem}
a{color:#0b57d0}
@media(prefers-color-scheme:dark){:root{background:#17181b;color:#e8e9ec}a{color:#8ab4f8}}
:focus-visible{outline:3px solid #f90;outline-offset:2px}
]]

local hashes = {}       -- style or script -> its base64 SHA-256

local function hash(text)
  hashes[text] = hashes[text] or require("secret").base64(require("secret").sha256(text))
  return hashes[text]
end

--- A page with a style of its own: every byte of it, and the fields that all our pages have. target: as below. script: the text of
-- the only script that may run there, which may ask this origin | nil: none.
function M.document(status, text, style, headers, target, script)
  local list = {
    { "Content-Type", "text/html; charset=utf-8" },
    { "Content-Security-Policy", ("default-src 'none'; style-src 'sha256-%s'; %sform-action 'self'%s; frame-ancestors 'none'; base-uri 'none'")
      :format(hash(style), script and ("script-src 'sha256-%s'; connect-src 'self'; "):format(hash(script)) or "", target and " " .. target or "") },
    { "X-Frame-Options", "DENY" }, { "X-Content-Type-Options", "nosniff" }, { "Referrer-Policy", "no-referrer" }, { "Cache-Control", "no-store" },
  }
  table.move(headers or {}, 1, #(headers or {}), #list + 1, list)
  return { status = status, headers = list, body = text }
end

--- A part of a page that its script fetches again after so many seconds (web.live), and what says that it does not any more.
function M.living(seconds, parts)
  return html('<p class="warn" id="stopped" role="status" hidden>This page is not live any more: its session has ended. Load it again.</p>'
    .. '<div id="live" data-every="{s}">{p}</div>', { s = seconds, p = parts })
end

--- A page. body: a piece. script: the only one that runs there | nil: none. target: the origin that a form's answer may redirect to (Chromium asks form-action for it too).
function M.page(status, title, body, headers, target, script)
  local text = html('<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    .. '<title>{title}</title><style>{style}</style><main><h1>{title}</h1>{body}</main>{script}</html>',
    { title = title, body = body, style = M.raw(STYLE), script = script ~= nil and html("<script>{s}</script>", { s = M.raw(script) }) })[1]
  return M.document(status, text, STYLE, headers, target, script)
end

--- A page that says one thing.
function M.says(status, title, text, headers) return M.page(status, title, html("<p>{text}</p>", { text = text }), headers) end

--- 303 See Other (RFC 9110 15.4.4): the next request is a GET, whatever this one was.
function M.see(place, headers)
  local list = { { "Location", place }, { "Cache-Control", "no-store" }, { "Referrer-Policy", "no-referrer" } }
  table.move(headers or {}, 1, #(headers or {}), #list + 1, list)
  return { status = 303, headers = list, body = "" }
end

function M.json(status, value, headers)
  local list = { { "Content-Type", "application/json" }, { "Cache-Control", "no-store" }, { "X-Content-Type-Options", "nosniff" } }
  table.move(headers or {}, 1, #(headers or {}), #list + 1, list)
  return { status = status, headers = list, body = require("json").encode(value) }
end

--- Only these methods: the answer to another (RFC 9110 15.5.6).
function M.allow(methods) return { status = 405, headers = { { "Allow", methods }, { "Cache-Control", "no-store" } }, body = "" } end

--- application/x-www-form-urlencoded: { name = value }, what came more than once: { name = true } or nil, and the values of
-- `many`, a name that may | nil: malformed.
function M.params(text, many)
  local list = require("form").parse(text or "")
  if not list then return nil end
  local out, twice, several = {}, nil, {}
  for _, p in ipairs(list) do
    if not utf8.len(p[1]) or not utf8.len(p[2]) then return nil end
    if p[1] == many then
      several[#several + 1] = p[2]
    elseif out[p[1]] then
      twice = twice or {}
      twice[p[1]] = true
    else
      out[p[1]] = p[2]
    end
  end
  return out, twice, several
end

--- The parameters of a POST; nil where its body is no form.
function M.posted(q, many)
  local kind = (q.header "content-type" or ""):lower():match("^%s*([^;%s]*)")
  if kind ~= "application/x-www-form-urlencoded" then return nil end
  return M.params(q.body, many)
end

--- A request as the rule that asks about it saw it (saw.lua).
function M.saw(s)
  if not s then return false end
  local rows, read = {}, {}
  for i, h in ipairs(s.headers) do
    rows[i] = html("<dt>{n}</dt><dd>{v}</dd>", { n = h.name, v = h.hidden and html "<small>not shown: it may be a key</small>"
      or { h.value, h.cut and html "… <small>cut</small>" or "" } })
  end
  for i, m in ipairs(s.members or {}) do read[i] = html("<dt>{n}</dt><dd>{v}</dd>", { n = m.name, v = require("saw").values(m) }) end
  local function more(n) return n and html("<p><strong>{n} more are not shown.</strong></p>", { n = n }) end
  return M.sparse([[
<h2>The request, as the rule saw it</h2>{push}{read}{body}{unread}{more}<dl>{rows}</dl>{fields}]], { rows = rows, fields = more(s.more_headers), more = more(s.more),
    push = s.push and html('<pre class="any">{t}</pre>', { t = table.concat(s.push, "\n") }), read = read[1] and html("<p>Of its body it read:</p><dl>{r}</dl>", { r = read }),
    body = s.body and M.sparse('<p>Its body:</p><pre class="any">{t}</pre>{cut}{otherwise}', { t = s.body, otherwise = s.otherwise and html("<p><strong>Servers may read another body: {w}.</strong></p>", { w = s.otherwise }), cut = s.body_cut and html "<p><strong>It goes on: this is its beginning.</strong></p>" }),
    unread = s.unread and html("<p>Of its body it read nothing: {w}.</p>", { w = s.unread }) or not (s.body or s.members or s.push) and html "<p>It read no body.</p>" })
end

--- What an agent says of a credential that it asks for: the words, and where to get it. Only an address that names its host first is a link:
-- https://bank.example@evil.test/ leads elsewhere than it seems.
function M.obtained(c)
  local url = c.obtain and c.obtain:find("^https://[^%s\"<>\\]+$") and require("http").parse_url(c.obtain)
  local at = c.obtain
  if url then at = html('<a href="{u}" rel="noopener noreferrer" target="_blank">{u}</a>', { u = c.obtain }) end
  return M.sparse("{d} {o} {i}", { d = c.description, o = at, i = c.obtain_instructions })
end

--- The choice to take the value that an agent sent along for a key. user: it, where it is a user name | nil; form: what was sent | nil
function M.sent(key, user, form)
  return M.sparse('<label class="on pick"><input type="checkbox" name="u.{k}" value="on"{on}> Or use this: {s}.</label>', { k = key,
    on = form and form["u." .. key] and html " checked", s = require("proposals").sent(user) })
end

return M
