--- sallyport help TOPIC: the manual's longer pages, lua/help/TOPIC.md. A pipe gets the Markdown as it is.
local page = require "cli.page"
local terminal = require "cli.terminal"
local M = {}

local PROSE_MAX = 100       -- longer lines are hard to read, however wide the terminal

--- The topics' names, in alphabetical order.
function M.topics() return require "help.topics" end

--- The Markdown of a topic | nil
function M.text(name)
  for _, topic in ipairs(M.topics()) do
    if topic == name then return require("help." .. name) end
  end
end

--- What a topic is about: its first line.
function M.title(name) return M.text(name):match("^# ([^\n]*)") end

local function inline(text)
  return (text:gsub("%*%*(.-)%*%*", "%1"):gsub("%[([^%]]+)%]%((%S-)%)", "%1 (%2)"))
end

-- A row's cells; "\|" is a bar within one.
local function cells(line)
  local out = {}
  for cell in line:gsub("\\|", "\0"):gsub("^%s*|", ""):gsub("|%s*$", ""):gmatch("([^|]*)|?") do
    out[#out + 1] = inline(cell:gsub("%z", "|"):match("^%s*(.-)%s*$"))
  end
  if out[#out] == "" then out[#out] = nil end
  return out
end

--- Markdown as text for a terminal of `width` columns; `head(text)` paints a heading. Known are headings, paragraphs,
-- lists, tables, fenced code, **bold** and links.
function M.render(text, width, head)
  local out, prose, table_rows, fence = {}, {}, {}, nil
  local function flush()
    if #prose > 0 then out[#out + 1] = page.fill(table.concat(prose, " "), math.min(width, PROSE_MAX), prose.indent) end
    if #table_rows > 0 then
      local titles = table.remove(table_rows, 1)
      out[#out + 1] = page.table(table_rows, width, { head = titles, indent = 2, paint = function(_, s) return head(s) end })
    end
    prose, table_rows = {}, {}
  end
  for line in text:gmatch("([^\n]*)\n") do
    local title = line:match("^#+ (.*)")
    local bullet = line:match("^%- (.*)")
    if line:find("^```") then
      flush()
      fence = not fence
    elseif fence then
      out[#out + 1] = line == "" and "" or "    " .. line
    elseif title then
      flush()
      out[#out + 1] = head(page.fill(inline(title), math.min(width, PROSE_MAX)))
    elseif line:find("^|") then
      if #prose > 0 then flush() end
      if not line:find("^[|%s:-]+$") then table_rows[#table_rows + 1] = cells(line) end
    elseif line == "" then
      flush()
      out[#out + 1] = ""
    else
      if bullet then
        flush()
        prose.indent, line = "  ", "- " .. bullet
      end
      prose[#prose + 1] = inline(line:match("^%s*(.*)"))
    end
  end
  flush()
  return table.concat(out, "\n") .. "\n"
end

--- Prints a topic: true, or false where there is none of that name.
function M.show(ctx, name)
  local text = M.text(name)
  if not text then return false end
  local width = terminal.width(ctx)
  ctx.out(width and M.render(text, width, function(s) return terminal.paint(ctx, "head", s) end) or text)
  return true
end

return M
