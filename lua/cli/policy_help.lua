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

--- A topic, or every entry of that name, as lines of Markdown | nil
function M.find(word)
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
  if out[1] then return out end
  -- a word that entries use: those whose text has it
  local word_pattern = "%f[%w_]" .. bare:gsub("%W", "%%%0") .. "%f[^%w_]"
  for _, t in ipairs(#bare > 2 and manual.topics() or {}) do
    for _, e in ipairs(t.entries) do
      if #out < WORDS_MAX and (e.head .. " " .. table.concat(e.text, " ")):lower():find(word_pattern) then entry(e, out) end
    end
  end
  return out[1] and out or nil
end

function M.run(args, _, ctx)
  local out = not args[1] and overview() or M.find(args[1])
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
