--- sallyport policy help: the manual, a topic of it, or one entry.
local help = require "cli.help"
local manual = require "cli.policy_manual"
local records = require "records"
local report = require "cli.report"
local terminal = require "cli.terminal"
local M = {}

local WORDS_MAX = 60     -- lines of entries that only mention a word

-- What the loader's own table says of a key.
local function kinds_of(name)
  local prefix, key = name:match("^([%w_]+)%.([%w_]+)$")
  local keys = prefix and require("policy").key_tables[prefix]
  return keys and keys[key]
end

local function entry(e, out)
  out[#out + 1] = "## " .. e.head
  local text = table.concat(e.text, "\n"):gsub("%s+$", "")
  local kinds = #e.names == 1 and kinds_of(e.names[1])
  if kinds then text = text .. (text ~= "" and " " or "") .. "(" .. kinds:gsub(" ", " or ") .. ")" end
  if text ~= "" then out[#out + 1] = text end
  if #e.code > 0 then
    out[#out + 1] = "\n```lua"
    for _, line in ipairs(e.code) do out[#out + 1] = line:sub(5) end
    out[#out + 1] = "```"
  end
  out[#out + 1] = ""
end

-- Lines of an intro; indented ones are code.
local function intro(lines, out)
  local fence = false
  for _, line in ipairs(lines) do
    local code = line:find("^    ") ~= nil
    if code ~= fence then out[#out + 1], fence = "```", code end
    out[#out + 1] = code and line:sub(5) or line
  end
  if fence then out[#out + 1] = "```" end
end

local function overview()
  local out = { "# The manual of policies", "", "sallyport policy help TOPIC shows a topic, and of a name (secret.hex, strip, headers:set) its entry.", "", "| topic | |", "|---|---|" }
  for _, t in ipairs(manual.topics()) do out[#out + 1] = ("| %s | %s |"):format(t.name, t.title) end
  return out
end

--- A topic, or every entry of that name, as lines of Markdown | nil. named: not those that only use the word.
function M.find(word, named)
  local out = {}
  for _, t in ipairs(manual.topics()) do
    if t.name == word then
      out[1], out[2] = "# " .. t.title, ""
      intro(t.intro, out)
      for _, e in ipairs(t.entries) do entry(e, out) end
      return out
    end
  end
  local bare = word:gsub("%(.*$", "")
  for _, t in ipairs(manual.topics()) do
    for _, e in ipairs(t.entries) do
      for _, name in ipairs(e.names) do
        local last = name:sub(-#bare - 1)
        if name == bare or last == "." .. bare or last == ":" .. bare then
          entry(e, out)
          break
        end
      end
    end
  end
  if out[1] or named then return out[1] and out end
  -- a word that entries use: those whose text has it
  local word_pattern = "%f[%w_]" .. bare:gsub("%W", "%%%0") .. "%f[^%w_]"
  for _, t in ipairs(#bare > 2 and manual.topics() or {}) do
    for _, e in ipairs(t.entries) do
      if #out < WORDS_MAX and (e.head .. " " .. table.concat(e.text, " ")):lower():find(word_pattern) then entry(e, out) end
    end
  end
  return out[1] and out or nil
end

-- A value of a policy's tables, in a line.
local function spoken(value)
  if type(value) ~= "table" then return tostring(value) end
  if #value > 0 then return table.concat(value, ", ") end
  local parts = {}
  for k, v in pairs(value) do parts[#parts + 1] = ("%s=%s"):format(k, tostring(v)) end
  table.sort(parts)
  return table.concat(parts, " ")
end

local function cell(text) return (text:gsub("|", "\\|"):gsub("\n", " ")) end

--- A policy's page, from its comment and its tables, as lines of Markdown.
function M.page(pol)
  local out = { ("# %s: %s"):format(pol.name, pol.title), "" }
  local code = false
  for line in pol.source:gmatch("([^\n]*)\n") do
    local text = line:match("^%-%-%-?%s?(.*)$")
    if not text then break end
    if #out > 2 or text:gsub("%.$", "") ~= pol.title then
      local is = text:find("^  ") ~= nil
      if is ~= code then out[#out + 1], code = "```", is end
      out[#out + 1] = is and text:sub(3) or text
    end
  end
  if code then out[#out + 1] = "```" end
  if pol.help then table.move({ "", pol.help }, 1, 2, #out + 1, out) end
  if pol.fields and pol.fields[1] then
    table.move({ "", "## Fields", "", "| field | | |", "|---|---|---|" }, 1, 5, #out + 1, out)
    for _, f in ipairs(pol.fields) do
      local notes = { f.type ~= "string" and f.type or nil }
      if records.is_secret(f) then notes[#notes + 1] = "secret" end
      if f.required then notes[#notes + 1] = "required" end
      if f.values then notes[#notes + 1] = table.concat(f.values, ", ") end
      if f.min or f.max then notes[#notes + 1] = ("%s to %s"):format(f.min or "…", f.max or "…") end
      if f.default ~= nil and f.default ~= "" and not (type(f.default) == "table" and next(f.default) == nil) then notes[#notes + 1] = "default " .. spoken(f.default) end
      out[#out + 1] = ("| %s | %s | %s |"):format(f.name, cell(table.concat(notes, "; ")), cell(f.help or ""))
    end
  end
  local rows = {}
  local function row(what, text) if text and text ~= "" then rows[#rows + 1] = ("| %s | %s |"):format(what, cell(text)) end end
  if pol.hosts then row("hosts", table.concat(pol.hosts, ", ")) end
  local strip = type(pol.strip) == "table" and pol.strip or {}
  for _, kind in ipairs { "headers", "query", "form" } do
    if strip[kind] and strip[kind][1] then row("takes off: " .. kind, table.concat(strip[kind], ", ")) end
  end
  if type(pol.strip) == "function" then row("takes off", "what its fields name") end
  if type(pol.body) == "table" then row("reads bodies", pol.body.max and ("to %d bytes"):format(pol.body.max) or "to body-max") end
  if pol.reader then row("reads", "what a push asks for (pkt-line)") end
  local kinds = {}
  for kind in pairs(pol.members and pol.reads or {}) do kinds[#kinds + 1] = kind end
  table.sort(kinds)
  row("reads members of", table.concat(kinds, ", "))
  if pol.kind == "rule" and pol.on_response then row("is asked about answers", pol.answer and "once they have ended" or "by their head") end
  if pol.tools then row("filters", "lists of an MCP server's tools") end
  if pol.refresh then row("fetches tokens", pol.connect and "of an account that a person connects" or "yes") end
  for _, url in ipairs(pol.reach or {}) do row("asks", url.scheme and ("%s://%s%s"):format(url.scheme, url.host, url.path) or (url.below and "*." or "") .. url.host) end
  for _, m in ipairs(type(pol.mint) == "table" and pol.mint or {}) do
    row("refuses", ("%s (%s)"):format(require("seal").call(m), m.what))
  end
  for _, r in ipairs(pol.seal or {}) do
    row("seals", ("%s (%s)"):format(require("seal").call(r), r.what))
  end
  if pol.env then row("variable", pol.env.name .. (pol.env.shape and ", shaped " .. pol.env.shape or "")) end
  if rows[1] then
    table.move({ "", "## What it does", "", "| | |", "|---|---|" }, 1, 5, #out + 1, out)
    table.move(rows, 1, #rows, #out + 1, out)
  end
  local n = #(pol.examples or {})
  table.move({ "", ("%d example%s: sallyport policy test %s. Its text: sallyport policy show %s"):format(n, n == 1 and "" or "s", pol.name, pol.name), "" }, 1, 3, #out + 1, out)
  return out
end

-- The page of the policy of that name, with what the manual has on the word behind it | nil
local function page_of(word, ctx)
  for _, t in ipairs(manual.topics()) do
    if t.name == word then return nil end
  end
  if not require("policy").name_ok(word) then return nil end
  if ctx.home and ctx.host.stat(ctx.home .. "/store") then require("cli.db").open(ctx) end
  local pol = require("policy_store").load(word)
  if not pol then return nil end
  local out, more = M.page(pol), M.find(word, true)
  return more and table.move(more, 1, #more, #out + 1, out) or out
end

function M.run(args, _, ctx)
  local out = not args[1] and overview() or page_of(args[1], ctx) or M.find(args[1])
  if not out then
    local all = {}
    for _, t in ipairs(manual.topics()) do all[#all + 1] = t.name end
    for _, name in ipairs(manual.names()) do
      all[#all + 1] = name
      all[#all + 1] = name:match("([%w_]+)$")
    end
    local near = records.nearest(args[1], all)
    report.usage(("the manual has nothing on '%s'"):format(report.clean(args[1]):sub(1, 40)),
      near and ("did you mean `sallyport policy help %s`?"):format(near) or "sallyport policy help lists the topics")
  end
  local text, width = table.concat(out, "\n") .. "\n", terminal.width(ctx)
  ctx.out(width and help.render(text, width, function(s) return terminal.paint(ctx, "head", s) end) or text)
  return 0
end

return M
